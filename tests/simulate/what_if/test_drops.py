"""Who is dropped: by hand, and exactly as real layers drop."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.cases import SPARSE, batch_for
from tests.moe.cases import hidden, small_layer
from tests.simulate.what_if.cases import LAYER, model, run, top_1, written
from turnout.config.moe import MoEConfig, Priority, RowsGroup
from turnout.config.routers import (
    DSelectKRouter,
    ExpertChoiceRouter,
    NoTokenLeftBehindRouter,
    NullExpertsRouter,
    PrototypesRouter,
    RouterConfig,
    SwitchRouter,
    Top2Router,
    TopKRouter,
    TopPRouter,
)
from turnout.models.build import build
from turnout.moe import MoELayer, RoutingContext
from turnout.moe.record import RoutingRecord
from turnout.moe.stats import LayerDecision
from turnout.simulate.what_if.answers import Question, what_if
from turnout.simulate.what_if.drops import counter, drops
from turnout.simulate.what_if.trace import Sparse, Trace, TracedLayer

ROUTERS: dict[str, RouterConfig] = {
    "switch": SwitchRouter(),
    "top_2": TopKRouter(2),
    "top2 that declines": Top2Router(),
    "nulls": NullExpertsRouter(2, nulls=2),
    "prototypes": PrototypesRouter(2),
    "any number up to three": TopPRouter(0.6, 3, "renormalised"),
    "selectors": DSelectKRouter(2, width=2.0),
    "no token left behind": NoTokenLeftBehindRouter(3),
}
ROWS, LENGTH, EXPERTS = 6, 9, 4


def test_drops_and_empty_slots_by_hand(tmp_path: Path) -> None:
    # Two experts, rows of 4: capacity is 2 x factor. Row 0 asks 3 : 1, row 1 asks 4 : 0.
    # 0.5: one slot. 1 + 1 and 1 + 0 are served, 3 of 8; 2 x 2 x 1 slots, 1 empty.
    # 1.0: two. 2 + 1 and 2 + 0, 5 of 8; 8 slots, 3 empty.
    # 2.0: four. All 8; 16 slots, 8 empty.
    path = written(tmp_path / "trace", top_1((0, 0, 0, 1), (0, 0, 0, 0)))
    found = drops(Trace.read(path, model(2, 4), 1), (0.5, 1.0, 2.0))
    assert found.layers[0].layer == LAYER
    assert found.whole.dropped == pytest.approx((5 / 8, 3 / 8, 0.0))
    assert found.whole.empty == pytest.approx((1 / 4, 3 / 8, 1 / 2))
    # Four slots are needed: 2 x 1.75 = 3.5 is rounded to the even 4, 2 x 1.74 = 3.48 to 3.
    assert found.whole.needed == (1.75, 1.75)
    assert found.layers[0] == replace(found.whole, layer=LAYER)


def test_padding_asks_for_nothing(tmp_path: Path) -> None:
    # As above, but two tokens of row 1 are padding: 3 : 1 and 2 : 0. One slot serves 3 of 6.
    path = written(tmp_path / "trace", top_1((0, 0, 0, 1), (-1, 0, 0, -1)))
    trace = Trace.read(path, model(2, 4), 1)
    assert trace.tokens == 6
    assert drops(trace, (0.5,)).whole.dropped == pytest.approx((1 / 2,))


def test_the_whole_is_weighed_by_assignments(tmp_path: Path) -> None:
    # One slot. Layer 0 drops 3 + 3 of 8; layer 1, of two real tokens in each row, 1 + 0 of 4.
    even = top_1((0, 0, -1, -1), (0, 1, -1, -1))
    path = written(tmp_path / "trace", top_1((0, 0, 0, 0), (0, 0, 0, 0)), even)
    found = drops(Trace.read(path, model(2, 4, layers=2), 1), (0.5,))
    assert [layer.dropped for layer in found.layers] == [(6 / 8,), (1 / 4,)]
    assert found.whole.dropped == pytest.approx((7 / 12,))


def test_groups_of_rows_share_their_slots(tmp_path: Path) -> None:
    # Groups of 2 rows have 8 tokens, capacity 4 x factor. Group 0 asks 5 : 3, group 1 asks 8 : 0.
    # 1.0: four slots serve 4 + 3 and 4 + 0, 11 of 16. Rows alone, two slots: 2 + 2, 2 + 1, 2, 2.
    rows = top_1((0, 0, 1, 1), (0, 0, 0, 1), (0, 0, 0, 0), (0, 0, 0, 0))
    path = written(tmp_path / "trace", rows)
    together = drops(Trace.read(path, model(2, 4, group=RowsGroup(2)), 2), (1.0,))
    alone = drops(Trace.read(path, model(2, 4), 2), (1.0,))
    assert together.whole.dropped == pytest.approx((5 / 16,))
    assert alone.whole.dropped == pytest.approx((5 / 16,))
    assert together.whole.empty == pytest.approx((5 / 16,))
    # 0.5: two slots serve 2 + 2 and 2 of 16; alone one serves 1 + 1, 1 + 1, 1, 1.
    together = drops(Trace.read(path, model(2, 4, group=RowsGroup(2)), 2), (0.5,))
    assert together.whole.dropped == pytest.approx((10 / 16,))


def test_no_factor_is_enough_for_tokens_that_name_an_expert_twice(tmp_path: Path) -> None:
    # Both choices of 2 tokens: 4 assignments, but no more than 2 slots, the tokens of a group.
    path = written(tmp_path / "trace", [[[0, 0], [0, 0]]] * 2)
    found = drops(Trace.read(path, model(4, 2, router=TopKRouter(2)), 1), (8.0,))
    assert found.whole.dropped == (0.5,)
    assert found.whole.needed == (None, None)


def test_the_factor_of_training_is_among_them(tmp_path: Path) -> None:
    path = written(tmp_path / "trace", top_1((0, 0, 0, 1), (0, 0, 0, 0)))
    config = model(2, 4, train_capacity_factor=1.1)
    assert what_if(run(config, 1), Question(path, (1.0, 2.0))).drops.factors == (1.0, 1.1, 2.0)


def _layer(router: RouterConfig, factor: float | None, **fields: object) -> MoELayer:
    layer = small_layer(
        router,
        num_experts=EXPERTS,
        group_tokens=2 * LENGTH,
        train_capacity_factor=factor,
        group=RowsGroup(2),
        **fields,
    )
    return layer.train()


def _moe(router: RouterConfig, priority: Priority) -> MoEConfig:
    return MoEConfig(EXPERTS, router, priority=priority, group=RowsGroup(2), min_capacity=1)


def _served(decision: LayerDecision, kept: torch.Tensor) -> torch.Tensor:
    """Which token is served by which expert, [T, E]."""
    expert = torch.where(kept, decision.named, EXPERTS).flatten(0, 1)
    table = torch.zeros(len(expert), EXPERTS + 1, dtype=torch.bool)
    return table.scatter(1, expert, torch.ones_like(expert).bool())[:, :-1]


@pytest.mark.parametrize("priority", ["token", "choice", "score", "random"])
@pytest.mark.parametrize("router", ROUTERS)
def test_a_layer_drops_the_same(router: str, priority: Priority) -> None:
    lengths = torch.tensor([9, 9, 0, 7, 3, 8])
    context = RoutingContext.build(torch.arange(LENGTH) < lengths.unsqueeze(1), rows=2)
    x = hidden(ROWS, LENGTH)
    free = _layer(ROUTERS[router], None, priority=priority)
    decision = free(x, context)[2]
    sparse = Sparse(free, _moe(ROUTERS[router], priority), 2 * LENGTH, LENGTH)
    traced, seen = TracedLayer(sparse, decision), 0
    for factor in (0.3, 0.5, 1.0, 1.3, 2.0):
        layer = _layer(ROUTERS[router], factor, priority=priority)
        _, stats, real = layer(x, context)
        assert layer.capacity.train == sparse.moe.expert_capacity(factor, 2 * LENGTH)
        kept = torch.from_numpy(traced.kept(layer.capacity.train))
        assert torch.equal(_served(decision, kept), _served(real, real.expert >= 0)), factor
        counts = counter(traced)(factor)
        assert counts.kept == int(stats.kept.sum())
        seen += int(counts.kept < counts.wanted)
    assert seen >= 2, "the case must drop something"


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.5])
def test_experts_that_choose_are_served_the_same(factor: float) -> None:
    router, x = ExpertChoiceRouter(2), hidden(ROWS, LENGTH)
    context = RoutingContext.build(torch.ones(ROWS, LENGTH).bool(), rows=2)
    free = _layer(router, None)
    decision = free(x, context)[2]
    layer = _layer(router, factor)
    real = layer(x, context)[2]
    traced = TracedLayer(Sparse(free, _moe(router, "token"), 2 * LENGTH, LENGTH), decision)
    kept = torch.from_numpy(traced.kept(layer.capacity.train))
    assert torch.equal(_served(decision, kept), _served(real, real.expert >= 0))


@pytest.mark.parametrize("name", sorted(SPARSE))
def test_a_record_of_a_model_in_training_tells_its_drops(name: str, tmp_path: Path) -> None:
    config = SPARSE[name]
    assert config.moe is not None
    config = replace(config, moe=replace(config.moe, train_capacity_factor=0.8, min_capacity=1))
    built = build(config)
    built.init_weights(3)
    batch = batch_for(config, [16, 12, 5, 16], [16, 3, 9, 14])
    with torch.no_grad():
        record = built.train()(batch, routing=True).routing
    assert record is not None
    RoutingRecord.join([record, record]).save(tmp_path / "record")
    trace = Trace.read(str(tmp_path / "record"), config, 4)
    assert (trace.rows, trace.batches) == (4, 2)
    dropped = 0
    for traced, decision in zip(trace.layers, record.layers, strict=True):
        capacity = built.sparse_layers()[traced.name].capacity.train
        kept = torch.from_numpy(traced.kept(capacity))
        assert torch.equal(kept, torch.cat([decision.expert >= 0] * 2)), traced.name
        dropped += int((~kept & traced.decision.live).sum())
    assert dropped > 0


@settings(max_examples=25)
@given(
    st.lists(st.lists(st.integers(-1, 3), min_size=6, max_size=6), min_size=2, max_size=5),
    st.booleans(),
)
def test_more_capacity_never_drops_more(rows: list[list[int]], left_behind: bool) -> None:
    named = torch.tensor([[[a, (a + 1) % 4 if a >= 0 else -1] for a in row] for row in rows])
    router: RouterConfig = NoTokenLeftBehindRouter(2) if left_behind else TopKRouter(2)
    layer = small_layer(router, num_experts=4, group_tokens=6)
    sparse = Sparse(layer, MoEConfig(4, router, min_capacity=1), 6, 6)
    traced = TracedLayer(sparse, LayerDecision.of(named))
    kept = [int(traced.kept(capacity).sum()) for capacity in (1, 2, 3, 4, 5, 6, None)]
    assert kept == sorted(kept)
    assert kept[-1] == kept[-2]  # a slot for each token of a group
    if not left_behind:
        assert kept[-1] == int((named >= 0).sum())
