"""Adapters in peft's layout: peft loads them on what we export, and writes the same itself."""

import json
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

import turnout
from tests.convert.cases import ours, random_model, reload, saved, text, theirs
from turnout.config.errors import UserError
from turnout.config.lora import LoraConfig
from turnout.convert.families import FAMILIES
from turnout.integrations.peft import CONFIG, WEIGHTS, save_adapter
from turnout.models import Model, adapters

ANSWER = torch.tensor([[0, 7, 9, 30, 8], [0, 3, 3, 41, 2]])
RANK = 3
ALL = LoraConfig(RANK, alpha=2.0, targets=("all",))
# Experts in two tensors (as theirs lie, and turned; halves in a row, and in turns), an expert each,
# none; shared experts, dense first layers, latents, routers of every kind.
NAMES = (
    *("t5", "t5 1.1", "switch", "nllb-moe", "mixtral, grouped", "olmoe", "qwen2_moe"),
    *("qwen3_moe, dense first", "granitemoe", "deepseek_v2, groups", "deepseek_v3", "gpt_oss"),
)


def adapted(model: Model, config: LoraConfig = ALL) -> Model:
    adapters.adapt(model, config, seed=0)
    generator = torch.Generator().manual_seed(1)
    for each in adapters.carried(model):
        torch.nn.init.normal_(each.adapter.b, std=0.1, generator=generator)
    return model.eval()


def with_peft(model: Any, folder: Path) -> Any:
    """By peft 0.21, which asks transformers 5.23 a thing by its older name, and looks for the ranks
    of parameters among modules alone, and says so."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
        warnings.filterwarnings("ignore", "The following (rank|alpha)_pattern keys did not match")
        return peft.PeftModel.from_pretrained(model, folder).eval()


def logits(name: str, one: Any, other: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Those of their model and of ours, of the same text."""
    padding = one.config.pad_token_id or 0
    ids, mask = text([9, 9], 9, "right", padding=padding)
    return theirs(one, ids, mask, ANSWER), ours(other, ids, mask, ANSWER)


def close(found: torch.Tensor, expected: torch.Tensor, share: float = 1e-5) -> None:
    assert float((found - expected).abs().max()) <= share * float(expected.abs().max())


@pytest.mark.parametrize("name", NAMES)
def test_peft_loads_it_and_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    base = turnout.load(saved(name, tmp_path / "hf"))
    turnout.save(base, tmp_path / "exported", format="huggingface")
    model = adapted(base)
    found = save_adapter(model, tmp_path / "adapter")
    alone, _ = logits(name, reload(name, tmp_path / "exported"), base)
    loaded = with_peft(reload(name, tmp_path / "exported"), tmp_path / "adapter")
    expected, own = logits(name, loaded, model)
    close(own, expected)
    assert float((alone - expected).abs().max()) > 0.01 * float(expected.abs().max())
    # All of theirs are named in our report, none twice.
    parameters = dict(random_model(name).named_parameters())
    assert set(found.names) <= parameters.keys()
    assert len(set(found.names)) == len(found.names)
    # Merged by peft it is what we merge and export.
    merged, _ = logits(name, loaded.merge_and_unload(), model)
    turnout.save(model, tmp_path / "merged", format="huggingface")
    again, _ = logits(name, reload(name, tmp_path / "merged"), model)
    close(again, merged)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_what_peft_writes(name: str, tmp_path: Path) -> None:
    """Of an adapter of the same configuration: the same tensors, shapes and settings."""
    model = adapted(turnout.load(saved(name, tmp_path / "hf")))
    save_adapter(model, tmp_path / "ours")
    with_peft(random_model(name), tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    one, other = (load_file(tmp_path / who / WEIGHTS) for who in ("ours", "theirs"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    configs = [peft.LoraConfig.from_pretrained(tmp_path / who) for who in ("ours", "theirs")]
    mine, yours = (config.to_dict() for config in configs)
    assert set(mine["target_parameters"] or ()) == set(yours["target_parameters"] or ())
    for field in ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "bias", "lora_dropout"):
        assert mine[field] == yours[field], field


def test_what_is_written_is_worked_out_by_hand(tmp_path: Path) -> None:
    """Two experts, one gate and one input a column each (F = 1), D = 2, rank 1.

    gate_up_proj: A has rows (expert 0: gate, input; expert 1: gate, input), so rank 2; B is [2 F, 2
    E] and its columns go by rank first: (gate of 0, gate of 1, input of 0, input of 1).
    """
    from turnout.convert.operations import Alternating, GateUp, Stacked, Transposed
    from turnout.integrations.peft import factors

    gate = torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]]), torch.tensor([[[5.0]], [[6.0]]])
    into = torch.tensor([[[7.0], [8.0]], [[9.0], [10.0]]]), torch.tensor([[[11.0]], [[12.0]]])
    (fused,) = factors(GateUp(), [gate, into])
    assert fused.a.tolist() == [[1.0, 2.0], [7.0, 8.0], [3.0, 4.0], [9.0, 10.0]]
    assert fused.b.tolist() == [[5.0, 6.0, 0.0, 0.0], [0.0, 0.0, 11.0, 12.0]]
    assert fused.rank == 2
    (turns,) = factors(Alternating(), [gate, into])
    assert turns.b.tolist() == fused.b.tolist()  # with F = 1 the halves are the turns
    (alone,) = factors(GateUp(), [None, into])
    assert (alone.rank, alone.b.tolist()) == (1, [[0.0, 0.0], [11.0, 12.0]])
    (stacked,) = factors(Transposed(), [gate])
    assert (stacked.a.tolist(), stacked.b.tolist()) == ([[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0]])
    first, second = factors(Stacked(), [gate])
    assert (first.a.tolist(), second.b.tolist()) == ([[1.0, 2.0]], [[6.0]])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mixtral", ("*.experts.w_in",)),
        ("mixtral", ("decoder.blocks.1.*.experts.*", "decoder.blocks.0.*.experts.w_gate")),
        ("gpt_oss", ("decoder.blocks.0.*.experts.w_in",)),
        ("qwen3_moe", ("*.experts.w_out", "*.0.*.query.weight")),
        ("switch", ("decoder.*.experts.w_in",)),
    ],
)
def test_a_part_of_the_matrices(name: str, words: tuple[str, ...], tmp_path: Path) -> None:
    model = adapted(turnout.load(saved(name, tmp_path / "hf")), LoraConfig(RANK, targets=words))
    save_adapter(model, tmp_path / "adapter")
    loaded = with_peft(random_model(name), tmp_path / "adapter")
    expected, own = logits(name, loaded, model)
    close(own, expected)


def test_dropout_is_left_out_where_peft_has_none(tmp_path: Path) -> None:
    for name, expected, notes in (("t5", 0.25, 0), ("mixtral", 0.0, 1)):
        model = turnout.load(saved(name, tmp_path / name))
        adapters.adapt(model, LoraConfig(2, dropout=0.25, targets=("all",)), seed=0)
        found = save_adapter(model, tmp_path / f"{name}-adapter", base="some/model")
        table = json.loads((tmp_path / f"{name}-adapter" / CONFIG).read_text())
        assert table["lora_dropout"] == expected
        assert table["base_model_name_or_path"] == "some/model"
        assert len(found.notes) == notes


def test_refusals_write_nothing(tmp_path: Path) -> None:
    model = turnout.load(saved("mixtral", tmp_path / "hf"))
    with pytest.raises(UserError, match="has no adapters"):
        save_adapter(model, tmp_path / "out")
    adapted(model)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    with pytest.raises(UserError, match="is there already"):
        save_adapter(model, tmp_path / "there")
    assert not (tmp_path / "out").exists()
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["file"]


def test_every_family_but_one_has_a_class_for_peft() -> None:
    assert [family.model_type for family in FAMILIES if not family.has_class] == ["deepseek"]


def test_a_changed_file_is_another_function(tmp_path: Path) -> None:
    """What the comparison above rests on."""
    model = adapted(turnout.load(saved("mixtral", tmp_path / "hf")))
    save_adapter(model, tmp_path / "adapter")
    file = tmp_path / "adapter" / WEIGHTS
    tensors = load_file(file)
    key = next(key for key in tensors if key.endswith("experts.base_layer.lora_B.weight"))
    tensors[key] = tensors[key].flip(1).contiguous()
    save_file(tensors, file, {"format": "pt"})
    expected, own = logits(
        "mixtral", with_peft(random_model("mixtral"), tmp_path / "adapter"), model
    )
    assert float((own - expected).abs().max()) > 1e-3
