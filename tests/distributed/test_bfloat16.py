"""Many ranks in bfloat16: weights are gathered as layers would cast them, and nothing else is
rounded."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist

from tests.distributed.cases import MODELS, Both, Case, error
from tests.distributed.harness import Pool
from tests.models.cases import CASES
from turnout.config.losses import LossConfig
from turnout.config.parallel import ParallelPlan

Ranks = Callable[[int], Pool]
P = ParallelPlan
LOSSES = LossConfig(balance=0.5, router_z=0.1)
DATA = (P(fsdp=1), P())


def against_a_sum_by_hand(case: Case) -> dict[str, float]:
    """Job: terms and gradients against those of a process that has all weights and this rank's
    rows, its gradients summed over the ranks in float32."""
    both = Both.of(case)
    one, many = both.step_own(both.one), both.step_own(both.many)
    both.ranks.settle(both.many)
    found = {f"term {name}": abs(many[name] - one[name]) for name in one}
    for name, param in both.one.named_parameters():
        assert param.grad is not None and param.grad.dtype == torch.float32
        expected = param.grad.clone()
        dist.all_reduce(expected)
        gradient = both.ranks.weights(both.many)[name].grad
        assert gradient is not None and gradient.dtype == torch.float32, name
        whole = both.gathered(name, gradient)
        assert whole is not None
        found[name] = error(whole, expected)
    return found


@pytest.mark.parametrize("name", [n for n, m in CASES.items() if m.kind == "decoder_only"])
def test_a_step_of_data_parallel_ranks_is_the_same_to_the_bit(ranks: Ranks, name: str) -> None:
    # The same casts, products and roundings; two numbers are added up in float32.
    for plan in DATA:
        case = Case(CASES[name], plan, LOSSES, dtype=torch.bfloat16)
        for found in ranks(2).run(against_a_sum_by_hand, case):
            assert {name: off for name, off in found.items() if off != 0.0} == {}, plan


@pytest.mark.parametrize("name", [n for n, m in CASES.items() if m.kind == "encoder_decoder"])
def test_two_stacks_differ_by_the_order_of_one_sum(ranks: Ranks, name: str) -> None:
    # Gradients of the encoder's states come from keys and values of each layer of the decoder.
    # FSDP adds up those of a layer first; they are bfloat16, whose rounding is 2^-9, and what is
    # rounded otherwise passes through the encoder: some roundings more.
    for plan in DATA:
        case = Case(CASES[name], plan, LOSSES, dtype=torch.bfloat16)
        for found in ranks(2).run(against_a_sum_by_hand, case):
            # The bias of keys moves no softmax: its true gradient is zero, this one rounding.
            apart = {n: off for n, off in found.items() if off and not n.endswith("key.bias")}
            assert all(n.startswith(("encoder", "embedding")) for n in apart), plan
            assert max(apart.values(), default=0.0) < 2**-5, plan


def test_micro_batches_are_accumulated_in_float32(ranks: Ranks) -> None:
    # Four numbers in another order: a float32 has 24 bits. A bfloat16 sum would be off by 2^-9.
    for plan in DATA:
        base = Case(MODELS["decoder, top-2 dropless"], plan, LOSSES, parts=2, dtype=torch.bfloat16)
        for case in (base, replace(base, recompute=True)):
            for found in ranks(2).run(against_a_sum_by_hand, case):
                assert {name: off for name, off in found.items() if off > 2**-20} == {}, plan


def off_the_truth(case: Case) -> tuple[float, float]:
    """Job: how far gradients in bfloat16 are from those in float32, of one process and of all
    ranks: the mean over weights of the largest difference, as a share of the largest entry."""
    both, truth = Both.of(case), Both.of(replace(case, dtype=torch.float32))
    truth.step_one()
    both.step_one()
    both.step_many()
    one, many = list[float](), list[float]()
    for (name, wide), half in zip(truth.one.named_parameters(), both.one.parameters(), strict=True):
        gradient = both.gathered(name, both.ranks.weights(both.many)[name].grad)
        assert wide.grad is not None and half.grad is not None
        if gradient is not None:
            one.append(error(half.grad, wide.grad))
            many.append(error(gradient, wide.grad))
    return sum(one) / len(one), sum(many) / len(many)


@pytest.mark.parametrize("name", ["decoder, top-2 dropless", "encoder-decoder, top-2"])
def test_other_layouts_are_as_near_to_float32_as_one_process(ranks: Ranks, name: str) -> None:
    # Rows meet in other products, and parts of sums are rounded on other ranks.
    for plan in (*DATA, P(expert=2), P(tensor=2), P(tensor=2, sequence=True)):
        case = Case(MODELS[name], plan, LOSSES, dtype=torch.bfloat16)
        for one, many in ranks(2).run(off_the_truth, case):
            assert 2**-9 < one < 2**-3 and many < 1.5 * one, (plan, one, many)
