"""Tables, TOML and overrides: what they give, and what hostile ones are told."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.models.cases import CASES

from turnout.config.errors import ConfigError, UserError, nearest
from turnout.config.io import dump_toml, from_dict, load_toml, override, parse_toml, to_dict
from turnout.config.model import ModelConfig
from turnout.config.moe import DocumentGroup, MoEConfig
from turnout.config.optimizers import AdafactorConfig, AdamWConfig
from turnout.config.presets import PRESETS, run
from turnout.config.routers import InputJitter, RouterConfig, SwitchRouter, Top2Router, TopKRouter
from turnout.config.train import RunConfig

BASE = run("switch_tiny")


def test_unions_are_tagged_and_none_is_a_word() -> None:
    table = to_dict(MoEConfig(4, train_capacity_factor=None))
    assert table["router"] == {
        "kind": "switch",
        "exploration": {"kind": "argmax"},
        "bias": False,
    }
    assert (table["train_capacity_factor"], table["expert"]) == ("none", "none")
    assert from_dict(MoEConfig, table) == MoEConfig(4, train_capacity_factor=None)
    assert from_dict(RouterConfig, {"kind": "top_k", "k": 3}) == TopKRouter(3)
    assert from_dict(MoEConfig, {"num_experts": 4, "train_capacity_factor": None}) == MoEConfig(
        4, train_capacity_factor=None
    )


def test_a_part_fills_from_the_base() -> None:
    config = parse_toml("[model.moe]\nnum_experts = 16\n[optimizer]\nlearning_rate = 1", BASE)
    assert config.model.moe.num_experts == 16
    assert config.model.moe.router == BASE.model.moe.router
    # a whole number is a float where a float is meant
    assert repr(config.optimizer.learning_rate) == "1.0"
    assert config.train == BASE.train


def test_a_part_fills_from_the_preset_it_names() -> None:
    config = parse_toml('preset = "switch_tiny"\nobjective = "span"\n[train]\nsteps = 7')
    assert config.model == run("switch_tiny", "span").model
    assert (config.train.steps, config.train.batch_rows) == (7, BASE.train.batch_rows)


def test_another_kind_starts_afresh() -> None:
    jittered = parse_toml('[model.moe.router.exploration]\nkind = "input_jitter"', BASE)
    assert jittered.model.moe.router == SwitchRouter(InputJitter())
    changed = parse_toml('[model.moe.router]\nkind = "top_k"\nk = 2', jittered)
    assert changed.model.moe.router == TopKRouter(2)
    adafactor = parse_toml('optimizer = "adafactor"', BASE)
    assert adafactor.optimizer == AdafactorConfig()
    # without a kind, the base's
    assert parse_toml("[optimizer]\nbeta1 = 0.5", BASE).optimizer.learning_rate == 2e-3


def test_a_sparse_model_becomes_dense_and_back() -> None:
    dense = parse_toml('[model]\nmoe = "none"', BASE)
    assert dense.model == BASE.model.dense_twin()
    assert parse_toml("[model.moe]\nnum_experts = 4", dense).model.moe == MoEConfig(4)


@pytest.mark.parametrize(
    ("options", "check"),
    [
        ({"model.moe.num-experts": "16"}, lambda c: c.model.moe.num_experts == 16),
        (
            {"model.moe.router": "top_k", "model.moe.router.k": "4"},
            lambda c: c.model.moe.router == TopKRouter(4),
        ),
        (
            {"model.moe.router.k": "4", "model.moe.router": "top_k"},
            lambda c: c.model.moe.router == TopKRouter(4),
        ),
        ({"model.moe.router.kind": "top2"}, lambda c: c.model.moe.router == Top2Router()),
        ({"model.moe.group": "document"}, lambda c: c.model.moe.group == DocumentGroup()),
        (
            {"model.moe.train_capacity_factor": "none"},
            lambda c: c.model.moe.train_capacity_factor is None,
        ),
        (
            {"model.moe.train_capacity_factor": "2"},
            lambda c: c.model.moe.train_capacity_factor == 2,
        ),
        ({"model.moe": "none"}, lambda c: c.model.moe is None),
        ({"train.recompute": "true"}, lambda c: c.train.recompute is True),
        ({"optimizer.learning_rate": "1e-4"}, lambda c: c.optimizer == AdamWConfig(1e-4)),
        ({"data.paths": "2024"}, lambda c: c.data.paths == ("2024",)),
        ({"data.paths": '["a", "b"]'}, lambda c: c.data.paths == ("a", "b")),
        ({"out": "2024"}, lambda c: c.out == "2024"),
        ({"out": 'a"\nb = 1'}, lambda c: c.out == 'a"\nb = 1'),
    ],
)
def test_override(options: dict[str, str], check: object) -> None:
    assert check(override(BASE, options))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[model.moe]\nnum_expert = 3",
            "model.moe.num_expert: no such option; did you mean 'num_experts'?",
        ),
        ("model = 3", "model = 3: must be a table, or the name of a kind; kinds: "),
        (
            '[model.moe.router]\nkind = "swich"',
            "model.moe.router.kind = 'swich': must be one of switch, top_k, ",
        ),
        (
            "[model.moe.router]\nkind = 3",
            "model.moe.router.kind = 3: must be one of switch, ",
        ),
        (
            '[model.moe.router]\nkind = "top_k"\nk = 300',
            "model.moe.num_experts = 8: must be at least 300, the choices of the router (top_k)",
        ),
        ("[model.moe]\nnum_experts = true", "model.moe.num_experts = True: must be a whole number"),
        ("[model.moe]\nnum_experts = 1.5", "model.moe.num_experts = 1.5: must be a whole number"),
        ("[model.moe.placement]\nstep = 0", "model.moe.placement.step = 0: must be at least 1"),
        ("[model.moe.expert]\nd_ff = 0", "model.moe.expert.d_ff = 0: must be at least 1"),
        ("[model.moe.expert]\nbias = true", "model.moe.expert.d_ff: required and not given"),
        (
            "[model.attention]\nnum_kv_heads = 3",
            "model.attention.num_kv_heads = 3: must be a divisor of attention.num_heads (4)",
        ),
        (
            "[model.moe]\ntrain_capacity_factor = -1",
            "model.moe.train_capacity_factor = -1.0: must be above 0; or none, which ",
        ),
        (
            '[losses]\nscope = "grup"',
            "losses.scope = 'grup': must be one of group, batch, previous; did you mean 'group'?",
        ),
        ("[losses]\nbalance = inf", "losses.balance = inf: must be a finite number"),
        ("[losses]\nbalance = false", "losses.balance = False: must be a finite number"),
        ("losses = [1]", "losses = [1]: must be a table; options: balance, "),
        ('[data]\npaths = "x"', "data.paths = 'x': must be a list; such as "),
        ('[data]\npaths = ["x", 3]', "data.paths[1] = 3: must be a string"),
        (
            "[train]\nsteps = 1979-05-27",
            "train.steps = datetime.date(1979, 5, 27): must be ",
        ),
        ("[train]\nrecompute = 1", "train.recompute = 1: must be true or false"),
        ("[objective.x]", "objective.x: no such option of kind 'causal'; it has none"),
        (
            '[model.initialisation]\nkind = "normal"\nscale = 3.0',
            "model.initialisation.scale: no such option of kind 'normal'; known: std",
        ),
        (
            '[model]\nkind = "encoder_decoder"',
            "model.vocab_size, model.d_model, model.encoder_layers, model.decoder_layers, "
            "model.attention, model.feed_forward: required and not given",
        ),
        ("out = 3", "out = 3: must be a string"),
        ('"" = 3', ": no such option; known: alarms, data, "),
        ("a = ", "the text is not valid TOML: "),
        ("a = 1\na = 2", "the text is not valid TOML: "),
        ("x = " + "[" * 5000, "the text is not valid TOML: "),
    ],
)
def test_hostile_toml(text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        parse_toml(text, BASE)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_a_router_misspelt_is_guessed():
    with pytest.raises(ConfigError, match=r"; did you mean 'switch'\?$"):
        parse_toml('preset = "switch_demo"\n[model.moe.router]\nkind = "swich"')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "model: required and not given"),
        (
            "[model]\nvocab_size = 3",
            "model.kind: required and not given; kinds: encoder_decoder, decoder_only",
        ),
        ('preset = "swich_tiny"', "no preset 'swich_tiny'; did you mean 'switch_tiny'?"),
        ("preset = 7", "preset = 7: must be the name of a preset"),
        (
            'preset = "switch_demo"\nobjective = "span"',
            "objective = 'span': must be 'causal' for the preset switch_demo",
        ),
    ],
)
def test_hostile_toml_without_a_base(text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        parse_toml(text)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model.moe.num_experts": "many"}, "model.moe.num_experts = 'many': must be a whole"),
        ({"model": "none"}, "model.kind = 'none': must be one of encoder_decoder, decoder_only"),
        ({"train": "fast"}, "train = 'fast': must be a table; options: steps, "),
        ({"model..moe": "none"}, "model.: no such option of kind 'decoder_only'; known: "),
        ({"train": "x", "train.steps": "3"}, "train.kind: no such option; "),
        ({"train.step": "3"}, "train.step: no such option; did you mean 'steps'?"),
        ({"model.moe.router": "tpo_k"}, "model.moe.router.kind = 'tpo_k': must be one of"),
    ],
)
def test_hostile_options(options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as error:
        override(BASE, options)
    assert str(error.value).startswith(message)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(dump_toml(BASE), encoding="utf-8")
    assert load_toml(path) == BASE
    path.write_bytes(b"out = '\xff'")
    with pytest.raises(UserError, match=r"run\.toml': not UTF-8 text"):
        load_toml(path)
    with pytest.raises(UserError, match=r"cannot read '.*absent\.toml': No such file"):
        load_toml(tmp_path / "absent.toml")
    path.write_text("steps = ", encoding="utf-8")
    with pytest.raises(UserError, match=r"run\.toml is not valid TOML"):
        load_toml(path, BASE)


def test_a_long_value_is_cut_short() -> None:
    with pytest.raises(ConfigError) as error:
        override(BASE, {"train.steps": "9" * 500 + "x"})
    assert len(str(error.value)) < 150


def test_an_error_moves_to_where_it_was_read() -> None:
    def at(field: str, path: str) -> str:
        return ConfigError(field, 0, "1").at(path).field

    assert at("moe.placement.step", "model.moe.placement") == "model.moe.placement.step"
    assert at("moe.num_experts", "model.moe") == "model.moe.num_experts"
    assert at("router.k", "model.moe.router") == "model.moe.router.k"
    assert at("feed_forward.d_ff", "model.moe.expert") == "model.moe.expert.d_ff"
    assert at("train.steps", "") == "train.steps"


def test_nearest() -> None:
    assert nearest("num_expert", ["num_experts", "router"]) == "did you mean 'num_experts'?"
    assert nearest("zzz", ["b", "a"]) == "known: a, b"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
places = st.sampled_from(
    ["model", "losses", "objective", "data", "optimizer", "train", "out", "preset", "kind"]
)


@given(st.dictionaries(places | st.text(max_size=3), json_values, max_size=4))
def test_any_table_gives_a_run_or_a_user_error(table: dict[str, object]) -> None:
    try:
        config = from_dict(RunConfig, table, BASE)
    except UserError:
        return
    assert from_dict(RunConfig, to_dict(config)) == config


@given(st.dictionaries(places | st.text(max_size=3), json_values, max_size=4))
def test_any_model_table_gives_a_model_or_a_user_error(table: dict[str, object]) -> None:
    with pytest.raises(UserError):
        from_dict(ModelConfig, {"kind": "decoder_only", **table, "vocab_size": "x"})


@given(st.text(), st.text())
def test_any_option_gives_a_run_or_a_user_error(name: str, text: str) -> None:
    for option in (name, f"train.{name}", "data.paths", "model.moe.num_experts"):
        try:
            config = override(BASE, {option: text})
        except UserError:
            continue
        assert isinstance(config, RunConfig)


@given(st.sampled_from(sorted(PRESETS)), st.sampled_from(sorted(PRESETS)))
def test_any_preset_merges_over_any_other(first: str, second: str) -> None:
    whole = to_dict(run(first))
    assert from_dict(RunConfig, whole, run(second)) == run(first)


@pytest.mark.parametrize("name", CASES)
def test_every_form_of_model_there_and_back(name: str) -> None:
    model = CASES[name]
    assert from_dict(type(model), json.loads(json.dumps(to_dict(model)))) == model
