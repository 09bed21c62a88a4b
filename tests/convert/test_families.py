"""Every family against transformers: the same function there and back, bit for bit."""

import json

import pytest
import torch

import turnout
from tests.convert.cases import CASES, ours, random_model, reload, saved, text, theirs
from turnout.config.generation import GenerateOptions
from turnout.convert.conversion import to_foreign, to_native
from turnout.convert.families import FAMILIES
from turnout.convert.folder import open_foreign
from turnout.convert.mapping import map_foreign
from turnout.convert.native import open_native
from turnout.generate.loop import generate
from turnout.generate.prompts import batch_of, stream_of

ANSWER = torch.tensor([[0, 7, 9, 30, 8], [0, 3, 3, 41, 2], [0, 50, 4, 12, 6]])
ONE_LAYOUT = ("t5", "mt5", "switch", "granite", "gpt_oss", "nllb")
FUSED_TOO = [name for name in CASES if not name.startswith(ONE_LAYOUT)]


def padding(model):
    """The id of padding: where positions count ids, as in NLLB, transformers sees it by that."""
    return model.config.pad_token_id or 0


def native(folder, target):
    foreign = open_foreign(folder)
    to_native(foreign, map_foreign(foreign), target)
    return target


@pytest.mark.parametrize("name", CASES)
def test_the_same_logits(name, tmp_path):
    expected_of, model = random_model(name), turnout.load(saved(name, tmp_path / "hf"))
    through = turnout.load(native(tmp_path / "hf", tmp_path / "run"))
    for lengths, side in (([9, 9, 9], "right"), ([9, 4, 6], "right"), ([9, 4, 6], "left")):
        ids, mask = text(lengths, 9, side, padding=padding(expected_of))
        expected = theirs(expected_of, ids, mask, ANSWER)
        found = ours(model, ids, mask, ANSWER)
        real = mask if expected.shape[1] == mask.shape[1] else torch.ones_like(ANSWER).bool()
        assert float((found - expected)[real].abs().max()) <= 1e-4
        assert torch.equal(ours(through, ids, mask, ANSWER), found)


@pytest.mark.parametrize("name", CASES)
def test_the_same_32_tokens_with_caches_and_padding_on_the_left(name, tmp_path):
    """Where they part, transformers' two best logits are closer than 1e-4."""
    expected_of, model = random_model(name), turnout.load(saved(name, tmp_path / "hf"))
    ids, mask = text([6, 3, 5], 6, "left", padding=padding(expected_of))
    words = {"input_ids": ids, "attention_mask": mask.long(), "max_new_tokens": 32}
    words |= {"do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    # transformers 5.23 counts the encoder's layers for the cache of the decoder.
    fields = expected_of.config
    fewer = fields.is_encoder_decoder and fields.model_type != "nllb-moe"
    fewer = fewer and fields.num_decoder_layers > fields.num_layers
    answer = expected_of.generate(**words, use_cache=not fewer)
    prompts = [row[real].tolist() for row, real in zip(ids, mask, strict=True)]
    ends = (fields.eos_token_id,) if fields.is_encoder_decoder else ()
    options = GenerateOptions(
        max_new_tokens=32, stop_ids=ends, start_id=getattr(fields, "decoder_start_token_id", 0) or 0
    )
    found = generate(model, prompts, options)
    first = 1 if ends else 6
    parted = 0
    for row, tokens in enumerate(found):
        expected = answer.sequences[row, first:].tolist()
        if ends and ends[0] in expected:
            expected = expected[: expected.index(ends[0])]
        if tokens == expected:
            continue
        place = next(i for i in range(32) if tokens[i : i + 1] != expected[i : i + 1])
        best = answer.logits[place][row].topk(2).values
        assert float(best[0] - best[1]) < 1e-4
        parted += 1
    assert parted <= 1


@pytest.mark.parametrize("name", CASES)
def test_the_way_back_is_bit_for_bit(name, tmp_path):
    saved(name, tmp_path / "hf", dtype=torch.bfloat16, max_shard_size="8KB")
    native(tmp_path / "hf", tmp_path / "run")
    to_foreign(open_native(tmp_path / "run"), tmp_path / "back", shard=8000)
    before, after = open_foreign(tmp_path / "hf"), open_foreign(tmp_path / "back")
    assert before.names == after.names
    assert len(list((tmp_path / "back").glob("*.safetensors"))) > 1
    for tensor in before.names:
        assert before.read(tensor).dtype == after.read(tensor).dtype == torch.bfloat16
        assert torch.equal(before.read(tensor), after.read(tensor)), tensor
    kept = json.loads((tmp_path / "back" / "config.json").read_text())
    assert {**before.config, **kept} == kept | {
        name: value for name, value in before.config.items() if name not in kept
    }
    assert kept["model_type"] == before.config["model_type"]


@pytest.mark.parametrize("name", CASES)
def test_transformers_loads_the_result(name, tmp_path):
    expected_of = random_model(name)
    model = turnout.load(saved(name, tmp_path / "hf"))
    ids, mask = text([9, 4, 6], 9, "left", padding=padding(expected_of))
    expected = theirs(expected_of, ids, mask, ANSWER)
    for layout in ("experts", "fused") if name in FUSED_TOO else ("experts",):
        turnout.save(model, tmp_path / layout, format="huggingface", layout=layout)
        found = theirs(reload(name, tmp_path / layout), ids, mask, ANSWER)
        # transformers' products of the same numbers differ by where they lie in memory.
        assert float((found - expected).abs().max()) <= 1e-5, layout
        # And we read what we wrote, in either layout.
        assert torch.equal(
            ours(turnout.load(tmp_path / layout), ids, mask, ANSWER),
            ours(model, ids, mask, ANSWER),
        )
        fused = any(n.endswith("gate_up_proj") for n in open_foreign(tmp_path / layout).names)
        assert fused == (layout == "fused" or name.startswith("gpt_oss"))


def test_every_family_has_a_case_or_a_miniature():
    tried = {random_model(name).config.model_type for name in CASES}
    # transformers has no class for DeepSeekMoE; tests/convert/test_published.py has its own.
    assert {family.model_type for family in FAMILIES} - tried == {"deepseek"}


def test_it_trains_after_loading(tmp_path):
    model = turnout.load(saved("qwen2_moe", tmp_path / "hf")).train()
    ids, mask = text([9, 4, 6], 9, "left")
    batch = batch_of(stream_of(ids, mask, (mask.long().cumsum(1) - 1).clamp(min=0)))
    model(batch).hidden.square().sum().backward()
    names = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert names == ["head.weight"]  # which hidden states do not pass


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("gpt_oss")])
def test_the_same_gradients(name, tmp_path):
    """Ours by the rules that carry weights across: every operation moves entries and no more."""
    expected_of, foreign = random_model(name), open_foreign(saved(name, tmp_path / "hf"))
    model = turnout.load(tmp_path / "hf")
    ids, mask = text([9, 4, 6], 9, "left")
    logits = expected_of(input_ids=ids, attention_mask=mask.long()).logits
    upstream = torch.randn(logits[mask].shape, generator=torch.Generator().manual_seed(5))
    (logits[mask] * upstream).sum().backward()
    output = model(batch_of(stream_of(ids, mask, (mask.long().cumsum(1) - 1).clamp(min=0))))
    (output.head.logits(output.hidden)[mask] * upstream).sum().backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    expected = {name: parameter.grad for name, parameter in expected_of.named_parameters()}
    for each in map_foreign(foreign).bound:
        grads = each.operation.to_foreign([found.pop(name) for name in each.native])
        for place, grad in zip(each.foreign, grads, strict=True):
            truth = expected.pop(place)
            assert float((grad - truth).abs().max()) <= 1e-4 * float(truth.abs().max()) > 0, place
    assert not found and not expected
