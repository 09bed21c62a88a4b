"""Collectives of one step: a small run by hand, and those that the real parallel code issues."""

import json
import subprocess
import sys
from collections import Counter
from functools import partial

import pytest

from tests.plan.cases import RUN, few, over, trained
from turnout.config.layout import over_ranks
from turnout.plan.collective import Collective
from turnout.plan.communication import collectives
from turnout.plan.work import work_of

Counted = Counter[tuple[str, int, int]]

# Ranks and options; what differs in the arithmetic has a case.
CASES: dict[str, tuple[int, dict[str, str]]] = {
    "data": (4, {"parallel.fsdp": "1"}),
    "sharded": (4, {}),
    "hybrid": (4, {"parallel.fsdp": "2", "train.micro_batches": "2"}),
    "expert": (4, {"parallel.expert": "4"}),
    "expert, copied": (8, {"parallel.expert": "4", "parallel.fsdp": "1"}),
    "expert, sharded": (
        8,
        {"parallel.expert": "2", "parallel.fsdp": "4", "train.recompute": "true"},
    ),
    "expert and tensor": (
        8,
        {"parallel.expert": "2", "parallel.tensor": "2", "train.recompute": "true"},
    ),
    "sequence": (
        8,
        {
            "parallel.expert": "2",
            "parallel.tensor": "2",
            "parallel.sequence": "true",
            "train.micro_batches": "2",
            "model.attention.qk_norm": "head",
            "model.attention.num_kv_heads": "2",
        },
    ),
    "encoder and decoder": (
        8,
        {
            "objective": "span",
            "model.decoder_length": "13",
            "parallel.expert": "2",
            "parallel.tensor": "2",
            "parallel.sequence": "true",
        },
    ),
    "sums of all ranks": (
        4,
        {"parallel.expert": "2", "losses.scope": "batch", "train.micro_batches": "2"},
    ),
    "shared experts, another network behind": (
        4,
        {
            "parallel.tensor": "2",
            "train.recompute": "true",
            "model.moe.shared_experts": "1",
            "model.moe.extra_ffn": "true",
            "model.feed_forward.activation": "swiglu",
        },
    ),
    "Adafactor": (
        8,
        {
            "optimizer": "adafactor",
            "optimizer.min_factored": "16",
            "parallel.expert": "2",
            "parallel.tensor": "2",
            "parallel.fsdp": "2",
        },
    ),
    "Adafactor, sharded experts": (
        8,
        {
            "optimizer": "adafactor",
            "optimizer.min_factored": "16",
            "parallel.expert": "8",
            "model.moe.num_experts": "8",
            "losses.scope": "batch",
        },
    ),
    "uneven": (
        6,
        {
            "train.batch_rows": "12",
            "train.eval_rows": "12",
            "model.moe.num_experts": "6",
            "parallel.expert": "3",
            "model.moe.router": "top_k",
        },
    ),
}


def planned(ranks: int, options: dict[str, str]) -> Counted:
    run = few(options)
    found: Counted = Counter()
    for each in collectives(work_of(run, over_ranks(run, ranks)), "balanced"):
        found[each.operation, each.group, each.size] += each.count
    return found


@pytest.fixture(scope="module")
def real() -> dict[str, Counted]:
    """Of all cases, from one process that does not share its default group with the tests."""
    runs = json.dumps(list(CASES.values()))
    command = [sys.executable, "-W", "ignore", "-m", "tests.plan.counted", runs]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    lists = json.loads(done.stdout)
    return {
        name: Counter({(operation, group, size): n for operation, group, size, n in found})
        for name, found in zip(CASES, lists, strict=True)
    }


@pytest.mark.parametrize("name", CASES)
def test_the_real_step_issues_the_same(name: str, real: dict[str, Counted]) -> None:
    assert planned(*CASES[name]) == real[name]


def test_two_of_experts_and_two_of_data_by_hand() -> None:
    """Four ranks, two rows of 6 tokens each: T = 12, D = 8, float32, one micro-batch."""
    weights = partial(Collective, axis="shard", group=4, stride=1)
    apart = partial(Collective, axis="expert shard", group=2, stride=2)
    tokens = partial(Collective, axis="expert", group=2, stride=1)
    world = partial(Collective, operation="all_reduce", axis="world", group=4, stride=1, count=1)
    dense, sparse = "decoder dense layer", "decoder sparse layer"
    # Entries in one piece: 512, 256 and 168 (42 of the rest on each rank), two experts 512. Layers
    # are gathered twice, for the forward and the backward pass; what is float32 in any case once.
    expected = {
        weights(f"weights, {dense}", "all_gather", count=2, size=512 * 4),
        weights(f"gradients, {dense}", "reduce_scatter", count=1, size=512 * 4),
        weights(f"weights, {sparse}", "all_gather", count=2, size=256 * 4),
        weights(f"gradients, {sparse}", "reduce_scatter", count=1, size=256 * 4),
        apart(f"weights, {sparse}: experts", "all_gather", count=2, size=512 * 4),
        apart(f"gradients, {sparse}: experts", "reduce_scatter", count=1, size=512 * 4),
        weights("weights, root", "all_gather", count=1, size=168 * 4),
        weights("gradients, root", "reduce_scatter", count=1, size=168 * 4),
        tokens("row counts, decoder experts", "all_to_all", count=1, size=4 * 8),
        # there and back, and their gradients: 12 rows of 8
        tokens("rows, decoder experts", "all_to_all", count=4, size=12 * 8 * 4),
        world("counts and signals", size=(7 + 2 * 4) * 8),
        world("terms of the loss", size=10 * 8),
        world("statistics of layers", size=6 * (4 + 1) * 8),
        world("norm of the gradient", size=8),
    }
    assert set(collectives(work_of(RUN, over(4, expert=2)), "balanced")) == expected


def test_one_process_exchanges_nothing() -> None:
    assert collectives(work_of(RUN, over(1)), "worst") == ()


def test_micro_batches_and_recomputation_repeat_what_they_must() -> None:
    plan = over(4, expert=2)

    def calls(**changes: object) -> dict[str, int]:
        work = work_of(trained(batch_rows=16, **changes), plan)
        return {f"{c.what} {c.operation}": c.count for c in collectives(work, "balanced")}

    once, twice = calls(), calls(micro_batches=2)
    for name, number in once.items():
        per_step = any(name.startswith(word) for word in ("counts", "terms", "norm", "stat"))
        assert twice[name] == (number if per_step else 2 * number)
    again = calls(recompute=True)
    assert again["rows, decoder experts all_to_all"] == 6
    assert again["row counts, decoder experts all_to_all"] == 2
    assert again["weights, decoder dense layer all_gather"] == 2


def test_a_full_rank_is_sent_more() -> None:
    work = work_of(RUN, over(4, expert=2))
    sizes = {
        load: [c.size for c in collectives(work, load) if c.what.startswith("rows")]
        for load in ("balanced", "worst")
    }
    assert sizes == {"balanced": [384], "worst": [768]}


def test_what_leaves_a_rank() -> None:
    gathered = Collective("w", "all_gather", "shard", 4, 1, 1, 400)
    summed = Collective("g", "all_reduce", "world", 4, 1, 1, 400)
    assert (gathered.sent, summed.sent) == (300, 600)
    assert gathered.hidden and not summed.hidden
