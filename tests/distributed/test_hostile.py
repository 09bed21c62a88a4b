"""What hangs or goes wrong elsewhere: experts without a token, ranks without a row, lengths."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.distributed.cases import MODELS, SWITCH, Case
from tests.distributed.harness import Pool
from tests.distributed.test_equal import differences, too_far
from tests.models.cases import GLAM, MODERN
from turnout.config.losses import LossConfig
from turnout.config.parallel import ParallelPlan
from turnout.config.routers import LabelRouter

Ranks = Callable[[int], Pool]
P = ParallelPlan
TOP1 = MODELS["decoder, switch at capacity 1"]
PLANS = (P(expert=2), P(expert=2, fsdp=1), P(), P(tensor=2, sequence=True))


@pytest.mark.parametrize(
    "labels",
    [
        (0, 0, 0, 0, 3, 3, 3, 3),  # rank 0 keeps all it has, rank 1 too: nothing travels
        (3, 3, 3, 3, 0, 0, 0, 0),  # all that each has goes to the other
        (3, 3, 3, 3, 3, 3, 3, 3),  # the first rank of experts gets nothing at all
    ],
    ids=["own", "crossed", "one expert"],
)
def test_all_tokens_of_a_rank_to_one_expert(ranks: Ranks, labels: tuple[int, ...]) -> None:
    moe = replace(SWITCH, router=LabelRouter(4), train_capacity_factor=None)
    losses = LossConfig(balance=0.0, router_z=0.0)
    for model in (replace(GLAM, moe=moe), replace(MODERN, moe=moe)):
        for plan in PLANS:
            case = Case(model, plan, losses, labels=labels, recompute=True)
            assert too_far(ranks(2).run(differences, case)) == {}, plan


def test_a_rank_with_padding_only(ranks: Ranks) -> None:
    for plan in PLANS:
        for losses in (LossConfig(), LossConfig(scope="batch")):
            case = Case(TOP1, plan, losses, lengths=(16, 9, 12, 16, 0, 0, 0, 0))
            assert too_far(ranks(2).run(differences, case)) == {}, plan


def test_fewer_rows_than_come_out_even(ranks: Ranks) -> None:
    # Three rows on two ranks, one row on two: the last rank fills up with padding.
    for plan in PLANS:
        for lengths in ((16, 9, 12), (11,)):
            case = Case(MODELS["decoder, top-2 dropless"], plan, lengths=lengths)
            assert too_far(ranks(2).run(differences, case)) == {}, (plan, lengths)


@pytest.mark.parametrize("last", [(16, 9, 12, 5), (7,)], ids=["half", "one row"])
def test_a_rank_with_fewer_batches(ranks: Ranks, last: tuple[int, ...]) -> None:
    # Two micro-batches; of the second, which ends the data, the last rank has less, or nothing.
    for plan in PLANS:
        for losses in (LossConfig(), LossConfig(scope="batch")):
            case = Case(TOP1, plan, losses, parts=2, last=last)
            assert too_far(ranks(2).run(differences, case)) == {}, (plan, losses.scope)


def test_ranks_whose_rows_have_different_lengths(ranks: Ranks) -> None:
    for plan in PLANS[:3]:
        case = Case(TOP1, plan, lengths=(16, 9, 12, 16, 3, 2, 5, 4), trimmed=True)
        assert too_far(ranks(2).run(differences, case)) == {}, plan
