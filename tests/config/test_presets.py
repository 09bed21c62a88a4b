"""Every preset against the published count, and the ways to ask for one."""

import json

import pytest

from turnout.config import presets
from turnout.config.errors import ConfigError, UserError
from turnout.config.io import dump_toml, from_dict, parse_toml, to_dict
from turnout.config.presets import PRESETS, run
from turnout.config.train import RunConfig

RUNS = [(name, kind) for name, preset in PRESETS.items() for kind in preset.objectives]
SPARSE = [(name, kind) for name, kind in RUNS if run(name, kind).model.moe is not None]

# Published parameters (and active ones), in billions, to the digits they are printed with.
PUBLISHED = {
    "t5_base": (0.223, None),
    "switch_base_16": (1.07, None),
    "switch_base_32": (1.98, None),
    "switch_base_64": (3.79, None),
    "switch_base_128": (7.41, None),
    "switch_base_256": (14.7, None),
    "switch_large": (26.3, None),
    "switch_xxl": (395, None),
    "switch_c": (1571, None),
    "st_moe_32b": (269, None),
    "glam_64b_64e": (1160, 96.6),
    "mixtral_8x7b": (46.7, 12.9),
    "olmoe": (6.9, None),
    "qwen3_30b_a3b": (30.5, None),
    "t5_small": (0.0605, None),
    "t5_large": (0.738, None),
    "t5_3b": (2.851, None),
    "t5_11b": (11.307, None),
    "t5_1_1_small": (0.077, None),
    "t5_1_1_base": (0.248, None),
    "t5_1_1_large": (0.783, None),
    "t5_1_1_xl": (2.850, None),
    "t5_1_1_xxl": (11.135, None),
    "st_moe_l": (4.1, None),
    "glam_1_7b_64e": (None, 1.879),
    "glam_1_7b_128e": (None, 1.881),
    "glam_1_7b_256e": (None, 1.886),
    "glam_8b": (8.7, 8.7),
    "glam_8b_64e": (143, 9.8),
    "mixtral_8x22b": (141, 39),
    "qwen3_235b_a22b": (235, None),
    "deepseek_moe_16b": (16.4, None),
    "deepseek_moe_145b": (144.6, 22.2),
}
# Printed with one or two digits: what is counted must round to it.
ROUNDED = {
    "olmoe": (6.9, 1.3, 1),
    "st_moe_dense_l": (0.8, None, 1),
    "glam_1_7b": (1.7, 1.7, 1),
    "glam_1_7b_64e": (27, None, 0),
    "glam_1_7b_128e": (53, None, 0),
    "deepseek_moe_2b": (2.0, 0.3, 1),
    "deepseek_moe_16b": (16.4, 2.8, 1),
    "qwen3_235b_a22b": (235, 22, 0),
    "mt5_small": (0.3, None, 1),
    "mt5_base": (0.58, None, 2),
    "mt5_large": (1.2, None, 1),
    "mt5_xl": (3.7, None, 1),
    "mt5_xxl": (13, None, 0),
}
# Within 1.5% of what is printed, which is coarser than the rounding of either.
NEAR = {"glam_137b": 137, "glam_1_7b_256e": 105}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_count_within_half_a_percent(name: str) -> None:
    total, active = PUBLISHED[name]
    model = run(name).model
    if total is not None:
        assert model.num_params() == pytest.approx(total * 1e9, rel=0.005)
    if active is not None:
        assert model.num_active_params() == pytest.approx(active * 1e9, rel=0.005)


@pytest.mark.parametrize("name", ROUNDED)
def test_published_count_to_its_digits(name: str) -> None:
    total, active, digits = ROUNDED[name]
    model = run(name).model
    assert round(model.num_params() / 1e9, digits) == total
    if active is not None:
        assert round(model.num_active_params() / 1e9, digits) == active


@pytest.mark.parametrize("name", NEAR)
def test_published_count_nearly(name: str) -> None:
    assert run(name).model.num_params() == pytest.approx(NEAR[name] * 1e9, rel=0.015)


def test_every_published_preset_has_a_count() -> None:
    small = {"switch_demo", "switch_tiny", "switch_mini"}
    assert set(PRESETS) - small - {"switch_base"} == {*PUBLISHED, *ROUNDED, *NEAR}
    assert run("switch_base").model == run("switch_base_128").model


@pytest.mark.parametrize(("name", "kind"), RUNS)
def test_round_trip(name: str, kind: str) -> None:
    config = run(name, kind)
    table = to_dict(config)
    assert from_dict(RunConfig, table) == config
    assert from_dict(RunConfig, json.loads(json.dumps(table))) == config
    assert parse_toml(dump_toml(config)) == config


@pytest.mark.parametrize(("name", "kind"), SPARSE)
def test_dense_twin(name: str, kind: str) -> None:
    twin = run(name, kind, dense=True)
    sparse = run(name, kind)
    assert twin.model == sparse.model.dense_twin()
    assert twin.model.moe is None
    assert (twin.losses.balance, twin.losses.router_z) == (0, 0)
    assert twin.out != sparse.out
    assert parse_toml(dump_toml(twin)) == twin


@pytest.mark.parametrize(("name", "kind"), SPARSE)
def test_evaluation_drops_nothing(name: str, kind: str) -> None:
    moe = run(name, kind).model.moe
    assert moe is not None
    assert moe.eval_capacity_factor is None


@pytest.mark.parametrize(("name", "kind"), RUNS)
def test_objective_and_form(name: str, kind: str) -> None:
    config = run(name, kind)
    assert config.preset == name == PRESETS[name].name
    assert config.objective.kind == kind
    assert config.model.kind == {"causal": "decoder_only", "span": "encoder_decoder"}[kind]
    assert run(name) == run(name, PRESETS[name].objectives[0])


def test_the_forms_of_one_preset_keep_apart() -> None:
    folders = {run("switch_tiny", k, d).out for k in ("causal", "span") for d in (False, True)}
    assert len(folders) == 4


def test_capacity_as_published() -> None:
    def capacity(name: str) -> int | None:
        model = run(name).model
        assert model.moe is not None
        tokens = {"encoder_decoder": 512, "decoder_only": 1024}[model.kind]
        moe = model.moe
        return moe.expert_capacity(moe.train_capacity_factor, tokens * moe.group.rows)

    # Switch-Base, 128 experts: 16 rows of 512 are 8192 tokens; 1.25 * 8192 / 128 = 80
    assert capacity("switch_base") == 80
    # Switch-C: 2048 tokens, 1.0 * 2048 / 2048 = 1, but never below 2
    assert capacity("switch_c") == 2
    # ST-MoE-32B: 4096 tokens, two choices: 1.25 * 4096 / 64 = 80 slots all the same
    assert capacity("st_moe_32b") == 80
    # GLaM 64B/64E: GShard's 2 * 1024 / 64 = 32
    assert capacity("glam_64b_64e") == 32
    assert capacity("mixtral_8x7b") is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("swich_demo",), "no preset 'swich_demo'; did you mean 'switch_demo'?"),
        (
            ("switch_base", "causal"),
            "objective = 'causal': must be 'span' for the preset switch_base",
        ),
        (
            ("switch_tiny", "spam"),
            "objective = 'spam': must be 'causal' or 'span' for the preset switch_tiny",
        ),
        (
            ("t5_base", None, True),
            "the model of t5_base is dense already: leave out --dense",
        ),
    ],
)
def test_refusals(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError) as error:
        run(*arguments)
    assert str(error.value) == message


def test_a_name_far_from_all_lists_them() -> None:
    with pytest.raises(UserError, match=r"no preset 'zzz'; known: .*switch_demo.*t5_base"):
        run("zzz")


def test_small_models_as_the_paper_balances() -> None:
    for name in ("switch_demo", "switch_tiny", "switch_mini"):
        for kind in PRESETS[name].objectives:
            config = run(name, kind)
            moe = config.model.moe
            assert moe is not None
            assert (config.losses.balance, config.losses.router_z) == (0.01, 0.001)
            assert (moe.num_experts, moe.router.kind, moe.init_scale) == (8, "switch", 0.1)
            assert (moe.train_capacity_factor, moe.group.rows) == (1.25, 1)
            assert all(stack.sparse_layers for stack in config.model.stacks())


def test_dense_twin_of_a_run_of_ones_own() -> None:
    config = run("switch_demo")
    with pytest.raises(UserError, match="dense already"):
        presets.dense_twin(presets.dense_twin(config))
    assert issubclass(ConfigError, UserError)
