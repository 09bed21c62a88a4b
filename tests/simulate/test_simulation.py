"""A simulated step against sums worked by hand, and against the plan."""

from dataclasses import replace

import pytest

from tests.distributed.cases import MODELS
from tests.models.cases import T5
from tests.simulate.cases import MODEL, TOP2, in_half, small
from turnout.config.layout import over_ranks
from turnout.config.parallel import ParallelPlan
from turnout.simulate.compare import compare
from turnout.simulate.loads import Zipf
from turnout.simulate.simulation import RankCost, simulate


def _simulated(plan: ParallelPlan, ranks: int, **more: float) -> dict[str, RankCost]:
    run = small(plan)
    return simulate(run, over_ranks(run, ranks), Zipf(**more))


def test_weights_and_collectives_by_hand() -> None:
    first = _simulated(ParallelPlan(expert=2), 4)["first"].cost
    # A layer: 2 norms of 16, attention 4 x 16 x 16, positions 32 x 4, router 4 x 16 = 1,248.
    # Around: embedding 40 x 16 and a norm = 656. A quarter of 2 x 1,248 + 656 is 788 entries.
    # Experts: 2 of 4 here, 2 matrices of 16 x 24, one of two shards: 768 a layer, 1,536 in all.
    weights = 4 * (788 + 1536)
    assert first.memory.weights == first.memory.gradients == weights
    # Two moments, and a float32 count for each of 2 x (2 + 4 + 1 + 1 + 2) + 2 tensors.
    assert first.memory.optimiser == 2 * weights + 4 * 22
    found = {(c.operation, c.group, c.size): c.count for c in first.collectives}
    assert found == {
        ("all_gather", 4, 4 * 1104): 1,  # around the layers, norms, positions, routers: once
        ("reduce_scatter", 4, 4 * 1104): 1,
        ("all_gather", 4, 4 * 1024): 4,  # 2 layers, forward and backward
        ("reduce_scatter", 4, 4 * 1024): 2,
        ("all_gather", 2, 4 * 1536): 4,  # experts of both ranks of the data axis
        ("reduce_scatter", 2, 4 * 1536): 2,
        ("all_to_all", 2, 8 * 4): 2,  # rows for each of 4 experts
        ("all_to_all", 2, 4 * 32 * 16): 8,  # 16 tokens x 2, there and back, and their gradients
        ("all_reduce", 4, 8 * (7 + 2 * 4)): 1,  # what a batch holds, signals and failures
        ("all_reduce", 4, 8 * 10): 1,  # terms of the loss
        ("all_reduce", 4, 8 * 6 * (4 + 1) * 2): 1,  # statistics of 2 layers
        ("all_reduce", 4, 8): 1,  # the norm
    }
    # Forward, then twice as much backward, of 16 tokens: projections 4 x 16 x 16, router 4 x 16,
    # 2 experts of 2 x 16 x 24, attention 2 x 16 x 16 a token and the head's 40 x 16; its logits
    # twice, where a bias is learned.
    layer = 4 * 16 * 16 + 4 * 16 + 2 * 2 * 16 * 24 + 2 * 16 * 16
    assert first.flops == 2 * 16 * (3 * (2 * layer + 40 * 16) + 2 * 16 * 16)


def test_half_precision_is_gathered_and_not_cast() -> None:
    plan = ParallelPlan(expert=2)
    first = simulate(in_half(small(plan)), plan.over(4), Zipf())["first"].cost
    found = {(c.operation, c.group, c.size): c.count for c in first.collectives}
    # The entries of the test above. Gradients are summed, and the rest is gathered, in float32.
    assert found["all_gather", 4, 2 * 1024] == 4 and found["reduce_scatter", 4, 4 * 1024] == 2
    assert found["all_gather", 2, 2 * 1536] == 4 and found["reduce_scatter", 2, 4 * 1536] == 2
    assert found["all_gather", 4, 4 * 1104] == found["reduce_scatter", 4, 4 * 1104] == 1
    assert first.memory.casts == 0
    # When the backward pass begins, the last layer has not been gathered for it.
    assert first.memory.gathered == 4 * 1104


def test_experts_without_a_copy_are_cast_a_layer_at_a_time() -> None:
    plan = ParallelPlan(expert=4)
    wide, half = (
        simulate(run, plan.over(4), Zipf())["first"].cost
        for run in (small(plan), in_half(small(plan)))
    )
    assert half.memory.casts == wide.memory.casts == 0
    assert half.memory.weights == wide.memory.weights
    experts = 2 * 16 * 24  # one expert's two matrices: no other rank has them, and nobody is asked
    assert not any(c.size in (2 * experts, 4 * experts) for c in half.collectives)


def test_what_is_frozen_has_no_gradient() -> None:
    """The bias of 16 behind attention is the first tensor rank's; the other one holds zeros."""
    plan = ParallelPlan(tensor=2)
    model = replace(MODEL, attention=replace(MODEL.attention, bias="all"))
    found = simulate(small(plan, model), plan.over(2), Zipf())
    first, last = (found[name].cost.memory for name in ("first", "last"))
    assert first.gradients == first.weights == last.weights
    assert last.gradients == last.weights - 2 * 4 * 16


PLANS = {
    "data": ParallelPlan(fsdp=1),
    "fsdp": ParallelPlan(),
    "hybrid": ParallelPlan(fsdp=2),
    "expert": ParallelPlan(expert=4),
    "tensor": ParallelPlan(tensor=2),
    "all": ParallelPlan(expert=2, tensor=2, sequence=True, wire="bfloat16"),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", PLANS)
def test_the_plan_says_the_same(name: str, dtype: str) -> None:
    run = small(PLANS[name], rows=16)
    run = in_half(run) if dtype == "bfloat16" else run
    plan = over_ranks(run, 8)
    comparison = compare(run, plan, simulate(run, plan, Zipf())["first"].cost)
    assert comparison.same_collectives, [
        line for line in comparison.collectives if line.planned != line.simulated
    ]
    by_name = {line.what: line for line in comparison.memory}
    for component in ("weights", "gradients", "optimiser", "casts"):
        assert by_name[component].apart == 0, by_name[component]
    assert abs(by_name["dispatch + activations"].apart) < 0.15


@pytest.mark.parametrize("recompute", [False, True])
def test_the_plan_says_the_same_of_two_stacks(recompute: bool) -> None:
    base = small(ParallelPlan(expert=2), replace(T5, moe=TOP2), rows=16)
    run = replace(base, train=replace(base.train, recompute=recompute, micro_batches=2))
    plan = over_ranks(run, 4)
    comparison = compare(run, plan, simulate(run, plan, Zipf())["first"].cost)
    assert comparison.same_collectives
    by_name = {line.what: line for line in comparison.memory}
    assert all(by_name[name].apart == 0 for name in ("weights", "gradients", "optimiser"))


def test_the_most_loaded_rank_has_the_most_rows_and_memory() -> None:
    found = _simulated(ParallelPlan(expert=4), 4, exponent=1.5)
    fullest = found["most loaded"]
    assert fullest.arrived == max(cost.arrived for cost in found.values())
    assert fullest.arrived > fullest.mean_arrived
    # 4 ranks x 16 tokens x 2 choices x 2 layers, over 4 ranks.
    assert fullest.mean_arrived == 4 * 16 * 2 * 2 / 4
    others = [found[name] for name in ("first", "last") if found[name].rank != fullest.rank]
    for other in others:
        assert fullest.cost.memory.dispatch > other.cost.memory.dispatch
        assert fullest.cost.flops > other.cost.flops


def test_full_experts_drop_rows() -> None:
    model = MODELS["decoder, switch at capacity 1"]
    run = small(ParallelPlan(expert=4), model)
    even, uneven = (
        simulate(run, over_ranks(run, 4), Zipf(exponent))["first"] for exponent in (0.0, 1.5)
    )
    # 16 tokens, 4 experts, 4 slots each: an even load fills them all, and no other one does.
    assert even.mean_arrived == 2 * 16
    assert uneven.mean_arrived < 2 * 16


def test_nothing_of_one_simulation_is_left_for_the_next() -> None:
    one, other = (_simulated(ParallelPlan(expert=2), 4)["first"].cost for _ in range(2))
    assert one == other
    assert MODEL.moe is TOP2
