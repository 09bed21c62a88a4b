"""Folders of Hugging Face: log-likelihoods from the logits of transformers itself."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from tests.convert.shapes import DECODER, SWITCH, T5
from turnout.evaluate.subject import open_subject

BOS, EOS = 258, 257
VOCABULARY = {"vocab_size": 384}


def add_tokenizer(folder: Path) -> None:
    """Bytes by their printable names, an end and padding."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<pad>", *letters, "</s>", "<s>"]
    library = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, []))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.save(str(folder / "tokenizer.json"))


def saved(folder: Path, name: str, fields: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**fields, **VOCABULARY)
    suffix = "ForCausalLM" if name == "Mixtral" else "ForConditionalGeneration"
    model = getattr(transformers, name + suffix)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
    model.save_pretrained(folder)
    add_tokenizer(folder)
    return model


def total(logits: torch.Tensor, targets: list[int]) -> float:
    """Of the last positions."""
    logs = logits[0, -len(targets) :].double().log_softmax(-1)
    return float(logs.gather(1, torch.tensor(targets).unsqueeze(1)).sum())


@pytest.mark.parametrize(("named", "start"), [(BOS, BOS), (None, EOS)])
@torch.no_grad()
def test_a_decoder(tmp_path: Path, named: int | None, start: int) -> None:
    fields = {**DECODER, "vocab_size": None, "num_local_experts": 3, "bos_token_id": named}
    del fields["vocab_size"]
    model = saved(tmp_path / "hf", "Mixtral", fields)
    subject = open_subject(tmp_path / "hf")
    encode = subject.form.tokenizer.encode
    row = subject.form.row("one two", " three")
    assert list(row.prompt) == [start, *encode("one two")]
    ids = [*row.prompt, *encode(" three")]
    expected = total(model(torch.tensor([ids[:-1]])).logits, encode(" three"))
    assert subject.likelihoods([row])[0].total == pytest.approx(expected, rel=1e-4)


@torch.no_grad()
def test_an_encoder_and_a_decoder(tmp_path: Path) -> None:
    fields = {**T5, "num_heads": 2, "num_experts": 3, **SWITCH}
    del fields["vocab_size"]
    model = saved(tmp_path / "hf", "SwitchTransformers", fields)
    model.config.use_cache = False
    subject = open_subject(tmp_path / "hf")
    encode = subject.form.tokenizer.encode
    row = subject.form.row("one two", " three")
    targets = [*encode("three"), EOS]
    assert list(row.encoder) == [*encode("one two"), EOS] and list(row.answer) == targets
    read = torch.tensor([row.encoder]), torch.tensor([[0, *targets[:-1]]])
    expected = total(model(input_ids=read[0], decoder_input_ids=read[1]).logits, targets)
    assert subject.likelihoods([row])[0].total == pytest.approx(expected, rel=1e-4)
