"""Placement and expert capacity: worked numbers and properties."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.config.errors import ConfigError
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.moe import MoEConfig, Placement, RowsGroup
from turnout.config.routers import NoTokenLeftBehindRouter, SwitchRouter, Top2Router, TopKRouter

ROUNDINGS = ("nearest", "floor", "ceil", "ceil_multiple_of_4", "floor_multiple_of_4_up")


@pytest.mark.parametrize(
    ("step", "first", "layers", "sparse"),
    [
        (2, 0, 6, (1, 3, 5)),  # Switch: every other layer
        (4, 0, 12, (3, 7, 11)),  # ST-MoE: every fourth
        (1, 0, 3, (0, 1, 2)),  # Switch-C: all
        (1, 1, 4, (1, 2, 3)),  # DeepSeekMoE 16B: all but the first
        (2, 1, 6, (2, 4)),  # from 1 on: 1 dense, 2 sparse, 3 dense, 4 sparse, 5 dense
        (3, 0, 2, ()),
        (1, 5, 3, ()),
    ],
)
def test_placement(step: int, first: int, layers: int, sparse: tuple[int, ...]) -> None:
    assert Placement(step, first).sparse_layers(layers) == sparse


@given(st.integers(1, 9), st.integers(0, 9), st.integers(1, 99))
def test_placement_is_even(step: int, first: int, layers: int) -> None:
    sparse = Placement(step, first).sparse_layers(layers)
    assert len(sparse) == max(0, layers - first) // step
    assert all(first <= index < layers for index in sparse)
    assert all(b - a == step for a, b in pairwise(sparse))


@pytest.mark.parametrize(
    ("rounding", "capacity"),
    # 1.25 * 1 * 100 / 8 = 15.625
    [
        ("nearest", 16),
        ("floor", 15),
        ("ceil", 16),
        ("ceil_multiple_of_4", 16),
        # floor 15, up to a multiple of 4
        ("floor_multiple_of_4_up", 16),
    ],
)
def test_rounding(rounding: str, capacity: int) -> None:
    assert MoEConfig(8, capacity_rounding=rounding).expert_capacity(1.25, 100) == capacity


def test_roundings_part_company() -> None:
    # 1.0 * 1 * 130 / 8 = 16.25
    found = {r: MoEConfig(8, capacity_rounding=r).expert_capacity(1.0, 130) for r in ROUNDINGS}
    assert found == {
        "nearest": 16,
        "floor": 16,
        "ceil": 17,
        "ceil_multiple_of_4": 20,
        "floor_multiple_of_4_up": 16,
    }


def test_capacity_counts_choices() -> None:
    # top-2, factor 1, 64 tokens, 8 experts: 1 * 2 * 64 / 8 = 16, GShard's 2N / E
    assert MoEConfig(8, router=Top2Router()).expert_capacity(1.0, 64) == 16
    # four candidates, but only one computes a token: 64 / 8
    assert MoEConfig(8, router=NoTokenLeftBehindRouter(4)).expert_capacity(1.0, 64) == 8


def test_float_error_does_not_add_a_slot() -> None:
    # 1.1 * 100 / 10 is 11.000000000000002 in float64; its ceiling must be 11
    assert MoEConfig(10, capacity_rounding="ceil").expert_capacity(1.1, 100) == 11


def test_capacity_has_a_floor_and_a_roof() -> None:
    moe = MoEConfig(64, min_capacity=4)
    # 1.0 * 64 / 64 = 1, raised to 4; a group of 3 tokens never needs more than 3 slots
    assert moe.expert_capacity(1.0, 64) == 4
    assert moe.expert_capacity(1.0, 3) == 3
    assert MoEConfig(2).expert_capacity(50.0, 10) == 10
    assert moe.expert_capacity(None, 64) is None


@given(
    experts=st.integers(1, 300),
    tokens=st.integers(1, 5000),
    factor=st.floats(0.05, 8),
    rounding=st.sampled_from(ROUNDINGS),
    least=st.integers(1, 8),
)
def test_capacity_properties(
    experts: int, tokens: int, factor: float, rounding: str, least: int
) -> None:
    moe = MoEConfig(experts, capacity_rounding=rounding, min_capacity=least)
    capacity = moe.expert_capacity(factor, tokens)
    assert capacity is not None
    assert min(least, tokens) <= capacity <= tokens
    exact = factor * tokens / experts
    within = abs(capacity - exact) < 4 + 1e-6
    assert within or capacity in (min(least, tokens), tokens)
    more = moe.expert_capacity(2 * factor, tokens)
    assert more is not None
    assert more >= capacity


def test_shapes_of_experts() -> None:
    dense = FeedForwardConfig(32, "geglu")
    assert MoEConfig(4).expert_ffn(dense) == dense
    assert MoEConfig(4).shared_ffn(dense) is None
    moe = MoEConfig(4, expert=FeedForwardConfig(8, "swiglu", bias=True), shared_experts=3)
    assert moe.expert_ffn(dense) == FeedForwardConfig(8, "swiglu", bias=True)
    assert moe.shared_ffn(dense) == FeedForwardConfig(24, "swiglu", bias=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"num_experts": 4, "router": TopKRouter(8)},
            "moe.num_experts = 4: must be at least 8, the choices of the router (top_k); "
            "add experts or let the router choose fewer",
        ),
        (
            {"num_experts": 1, "router": Top2Router()},
            "moe.num_experts = 1: must be at least 2, the choices of the router (top2); "
            "add experts or let the router choose fewer",
        ),
        ({"num_experts": 0}, "moe.num_experts = 0: must be at least 1"),
        (
            {"num_experts": 4, "train_capacity_factor": 0.0},
            "moe.train_capacity_factor = 0.0: must be above 0; or none, which drops no token",
        ),
        (
            {"num_experts": 4, "eval_capacity_factor": float("nan")},
            "moe.eval_capacity_factor = nan: must be above 0; or none, which drops no token",
        ),
        (
            {"num_experts": 4, "expert_dropout": 1.0},
            "moe.expert_dropout = 1.0: must be in [0, 1)",
        ),
        ({"num_experts": 4, "min_capacity": 0}, "moe.min_capacity = 0: must be at least 1"),
    ],
)
def test_refusals(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        MoEConfig(**options)
    assert str(error.value) == message


def test_parts_refuse() -> None:
    for build, field in (
        (lambda: Placement(step=0), "moe.placement.step"),
        (lambda: Placement(first=-1), "moe.placement.first"),
        (lambda: RowsGroup(0), "moe.group.rows"),
        (lambda: TopKRouter(0), "router.k"),
        (lambda: FeedForwardConfig(0), "feed_forward.d_ff"),
    ):
        with pytest.raises(ConfigError) as error:
            build()
        assert error.value.field == field
    assert MoEConfig(1, router=SwitchRouter()).num_experts == 1
