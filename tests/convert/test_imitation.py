"""Where transformers does not compute what the papers say: as it does by name, else as they do.

Switch: ``expert_capacity`` slots an expert and row, whatever the row's length, and padding takes
them too.
"""

import json

import pytest
import torch

import turnout
from tests.convert.cases import CASES, ours, random_model, reload, saved, text, theirs
from tests.convert.test_families import ANSWER
from turnout.cli.main import main
from turnout.config.errors import ConfigError, UserError
from turnout.config.generation import GenerateOptions
from turnout.config.moe import DocumentGroup, MoEConfig, RowsGroup
from turnout.generate.loop import generate
from turnout.generate.prompts import batch_of, stream_of
from turnout.moe import RoutingContext

SLOTS = 2  # of three or eight experts, for rows of nine tokens: something is dropped
SWITCHES = [name for name in CASES if name.startswith("switch")]


@pytest.fixture(params=SWITCHES)
def pair(request, tmp_path, monkeypatch):
    """transformers' model with tight slots, and its folder."""
    kind, fields = CASES[request.param]
    tight = {**fields, "expert_capacity": SLOTS}
    monkeypatch.setitem(CASES, request.param, (kind, tight))
    return random_model(request.param), saved(request.param, tmp_path / "hf")


def apart(found, expected):
    return float((found - expected).abs().max())


@pytest.mark.parametrize("side", ["none", "left", "right"])
def test_by_name_the_logits_are_those_of_transformers(pair, side):
    model, folder = pair
    ids, mask = text([9, 9, 9] if side == "none" else [9, 4, 6], 9, side)
    expected = theirs(model, ids, mask, ANSWER)
    imitating = turnout.load(folder, imitate="transformers")
    assert imitating.config.moe.eval_slots == SLOTS
    assert apart(ours(imitating, ids, mask, ANSWER), expected) <= 1e-4
    # Without the name nothing is dropped, which here is another function by far.
    assert apart(ours(turnout.load(folder), ids, mask, ANSWER), expected) > 1e-2


def test_without_it_padding_changes_nothing_and_with_it_does(pair):
    """A row of four tokens alone, and beside a row of nine: the same text."""
    model, folder = pair
    ids, mask = text([9, 4], 9, "left")
    alone, whole = ids[1:, 5:], mask[1:, 5:]
    lone_answer = ANSWER[1:2]
    right = turnout.load(folder)
    padded = ours(right, ids, mask, ANSWER[:2])[1:]
    assert apart(padded, ours(right, alone, whole, lone_answer)) <= 1e-5
    in_theirs = theirs(model, ids, mask, ANSWER[:2])[1:]
    assert apart(in_theirs, theirs(model, alone, whole, lone_answer)) > 1e-2
    imitating = turnout.load(folder, imitate="transformers")
    assert apart(ours(imitating, ids, mask, ANSWER[:2])[1:], in_theirs) <= 1e-4
    assert not any(layer.batch_invariant for layer in imitating.sparse_layers().values())


def test_a_decoder_padded_on_the_right(pair):
    """Its padding reads the encoder and the tokens before it, and takes slots behind them."""
    model, folder = pair
    ids, mask = text([9, 4, 6], 9, "right")
    answer = torch.where(torch.arange(5) < torch.tensor([[5], [3], [2]]), ANSWER, 0)
    real = torch.arange(5) < torch.tensor([[5], [3], [2]])
    words = {"attention_mask": mask.long(), "decoder_attention_mask": real.long()}
    with torch.no_grad():
        expected = model(input_ids=ids, decoder_input_ids=answer, **words).logits
    imitating = turnout.load(folder, imitate="transformers")
    position = (real.long().cumsum(1) - 1).clamp(min=0)
    encoder = stream_of(ids, mask, (mask.long().cumsum(1) - 1).clamp(min=0))
    with torch.no_grad():
        output = imitating(batch_of(stream_of(answer, real, position), encoder))
        found = output.head.logits(output.hidden)
    assert apart(found[real], expected[real]) <= 1e-4


def test_the_same_32_tokens(pair):
    """The encoder drops in generation too; a decoder that reads one token at a time never does."""
    model, folder = pair
    ids, mask = text([9, 3, 5], 9, "left")
    fewer = model.config.num_decoder_layers > model.config.num_layers
    words = {"max_new_tokens": 32, "do_sample": False, "use_cache": not fewer}
    prompts = [row[real].tolist() for row, real in zip(ids, mask, strict=True)]
    if fewer:  # transformers has no cache there, and without one reads its answer again and again
        words["max_new_tokens"] = 1
    answer = model.generate(input_ids=ids, attention_mask=mask.long(), **words)
    new = words["max_new_tokens"]
    options = GenerateOptions(max_new_tokens=new, stop_ids=(1,))
    found = generate(turnout.load(folder, imitate="transformers"), prompts, options)
    for row, tokens in enumerate(found):
        expected = answer[row, 1:].tolist()
        expected = expected[: expected.index(1)] if 1 in expected else expected
        assert tokens == expected


@pytest.mark.parametrize("imitate", ["transformers", None])
def test_there_and_back(pair, imitate, tmp_path, capsys):
    model, folder = pair
    options = ["--imitate", imitate] if imitate else []
    assert main(["convert", str(folder), str(tmp_path / "run"), *options]) == 0
    again = turnout.load(tmp_path / "run")
    assert again.config.moe.eval_slots == (SLOTS if imitate else None)
    assert main(["convert", str(tmp_path / "run"), str(tmp_path / "back")]) == 0
    kept = json.loads((tmp_path / "back" / "config.json").read_text())
    assert kept["expert_capacity"] == SLOTS  # either way that of the source
    name = next(name for name in SWITCHES if CASES[name][1]["num_heads"] == model.config.num_heads)
    ids, mask = text([9, 4, 6], 9, "left")
    expected = theirs(model, ids, mask, ANSWER)
    assert apart(theirs(reload(name, tmp_path / "back"), ids, mask, ANSWER), expected) <= 1e-5


def test_a_model_of_ours_goes_out_with_the_slots_that_it_has(tmp_path):
    """Else with as many as its rows have tokens, so that transformers drops nothing either."""
    for slots, said in ((7, 7), (None, 512)):
        config = turnout.load_preset("switch_tiny", "span").model
        moe = {**vars(config.moe), "eval_slots": slots}
        config = type(config)(
            **{**vars(config), "moe": MoEConfig(**moe), "encoder_length": 512, "decoder_length": 9}
        )
        model = turnout.build_model(config)
        model.init_weights(seed=0)
        turnout.save(model, tmp_path / str(said), format="huggingface")
        kept = json.loads((tmp_path / str(said) / "config.json").read_text())
        assert kept["expert_capacity"] == said


def test_jitter_is_of_training_alone_and_reaches_transformers_experts(tmp_path, monkeypatch):
    """In float32 transformers multiplies the rows themselves by the noise, which is meant for the
    router's copy of them; evaluation has none, so that logits agree whatever the jitter."""
    model = random_model("switch")
    layer = model.encoder.block[1].layer[1].mlp
    x = torch.randn(1, 9, 16, generator=torch.Generator().manual_seed(2))
    layer.router.jitter_noise = 0.5
    given = x.clone()
    layer.train()(given)
    assert not torch.equal(given, x)
    given = x.clone()
    layer.eval()(given)
    assert torch.equal(given, x)
    # Ours: the router's copy alone, so that the experts see the rows as they are.
    kind, fields = CASES["switch"]
    monkeypatch.setitem(CASES, "jittered", (kind, {**fields, "router_jitter_noise": 0.5}))
    expected_of, loaded = random_model("jittered"), turnout.load(saved("jittered", tmp_path))
    ids, mask = text([9, 4, 6], 9, "left")
    expected = theirs(expected_of, ids, mask, ANSWER)
    assert apart(ours(loaded, ids, mask, ANSWER), expected) <= 1e-4
    moe = loaded.encoder.blocks[1].feed_forward.moe.train()
    given = x.clone()
    _, _, decision = moe(given, RoutingContext.of(torch.ones(1, 9, dtype=torch.bool)))
    assert torch.equal(given, x) and decision.expert.shape == (1, 9, 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"eval_slots": 0}, "moe.eval_slots = 0: must be at least 1"),
        ({"eval_slots": 2, "eval_capacity_factor": 1.0}, "moe.eval_capacity_factor = 1.0"),
        ({"eval_slots": 2, "group": RowsGroup(2)}, "moe.group"),
        ({"eval_slots": 2, "group": DocumentGroup()}, "moe.group"),
    ],
)
def test_settings_that_cannot_be(fields, message):
    with pytest.raises(ConfigError, match=message):
        MoEConfig(4, **fields)


def test_nothing_to_imitate_is_said(tmp_path, capsys):
    folder = saved("mixtral", tmp_path / "hf")
    with pytest.raises(UserError, match="imitate = 'transformers': must be left out for mixtral"):
        turnout.load(folder, imitate="transformers")
    with pytest.raises(ConfigError, match="imitate = 'paper': must be 'transformers'"):
        turnout.load(folder, imitate="paper")
    assert main(["convert", str(folder), str(tmp_path / "run")]) == 0
    with pytest.raises(UserError, match="goes with a Hugging Face folder"):
        turnout.load(tmp_path / "run", imitate="transformers")
    back = [str(tmp_path / "run"), str(tmp_path / "back"), "--imitate", "transformers"]
    assert main(["convert", *back]) == 2
    assert "--imitate: goes with a Hugging Face source" in capsys.readouterr().err
