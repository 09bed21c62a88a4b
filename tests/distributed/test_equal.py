"""Many ranks against one process: loss, terms, every gradient, the norm, and the weights after."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from tests.distributed.cases import ALL, MODELS, MORE, Both, Case, batches_of, error, whole_model
from tests.distributed.harness import Pool
from turnout.config.losses import LossConfig
from turnout.config.optimizers import AdafactorConfig, AdamWConfig, OptimizerConfig
from turnout.config.parallel import ParallelPlan
from turnout.moe.context import RoutingContext
from turnout.moe.routers.softmax import SoftmaxRouter
from turnout.objectives import build as build_objective
from turnout.train.optim import build_optimizer
from turnout.train.ranks import Held

Ranks = Callable[[int], Pool]
P = ParallelPlan
PLANS = {
    2: (P(fsdp=1), P(), P(expert=2), P(tensor=2), P(tensor=2, sequence=True)),
    4: (
        P(fsdp=1),  # data parallel: a copy on every rank
        P(),  # FSDP over all ranks
        P(fsdp=2),  # two copies, each in two shards
        P(expert=2),  # experts on two ranks, and their shares sharded over the other two
        P(expert=2, fsdp=1),
        P(expert=2, fsdp=2),
        P(expert=4),
        P(tensor=2),
        P(tensor=2, sequence=True),
        P(expert=2, tensor=2),
        P(expert=2, tensor=2, sequence=True),
    ),
    8: (P(data=2, expert=2, tensor=2), P(data=2, expert=2, tensor=2, sequence=True, fsdp=2)),
}
SCOPES = (
    LossConfig(balance=0.5, router_z=0.1, importance=0.1, entropy=0.05, head_z=0.01),
    LossConfig(balance=0.5, importance=0.1, scope="batch"),
)
SLOW = pytest.mark.slow
MARGIN = 1e-4  # of logits
NAMES = ("decoder, top-2 dropless", "encoder-decoder, switch at capacity 1")


def differences(case: Case) -> dict[str, float]:
    """Job: loss and terms, each gradient's largest error, and the norm's."""
    both = Both.of(case)
    one, many = both.step_one(), both.step_many()
    found = {f"term {name}": abs(many[name] - one[name]) for name in one}
    for name, param in both.one.named_parameters():
        gradient = both.gathered(name, both.ranks.weights(both.many)[name].grad)
        assert param.grad is not None
        if gradient is not None:
            found[name] = error(gradient, param.grad)
    norm = get_total_norm([p.grad for p in both.one.parameters() if p.grad is not None])
    found["the norm"] = abs(float(both.ranks.norm(both.many)) / float(norm) - 1)
    return found


def too_far(found: list[dict[str, float]], most: float = 1e-5) -> dict[str, float]:
    """What differs too much on any rank."""
    return {name: value for one in found for name, value in one.items() if not value <= most}


@pytest.mark.parametrize("name", [*MODELS, *(pytest.param(name, marks=SLOW) for name in MORE)])
@pytest.mark.parametrize("losses", SCOPES, ids=lambda losses: losses.scope)
@pytest.mark.parametrize("size", [2, pytest.param(4, marks=SLOW)])
def test_loss_terms_gradients_and_norm_are_those_of_one_process(
    ranks: Ranks, size: int, losses: LossConfig, name: str
) -> None:
    for plan in PLANS[size]:
        case = Case(ALL[name], plan, losses)
        assert too_far(ranks(size).run(differences, case)) == {}, plan


@SLOW
@pytest.mark.parametrize("plan", PLANS[8], ids=str)
def test_all_axes_together_on_eight_ranks(ranks: Ranks, plan: ParallelPlan) -> None:
    for name in NAMES:
        case = Case(MODELS[name], plan, SCOPES[1])
        assert too_far(ranks(8).run(differences, case)) == {}, name


@pytest.mark.parametrize("losses", SCOPES, ids=lambda losses: losses.scope)
def test_micro_batches_and_recomputation_change_nothing(ranks: Ranks, losses: LossConfig) -> None:
    for plan in (P(expert=2), P(tensor=2, sequence=True)):
        case = Case(MODELS["decoder, top-2 dropless"], plan, losses, parts=2, recompute=True)
        assert too_far(ranks(2).run(differences, case)) == {}, plan


def updates(case: Case, config: OptimizerConfig | None, steps: int) -> dict[str, float]:
    """Job: how far each weight is off after some steps, as a share of the largest update.

    Without a configuration the optimiser is plain descent.
    """
    both = Both.of(case)
    before = {name: p.detach().clone() for name, p in both.one.named_parameters()}
    held = Held(both.ranks.weights(both.many))
    optimizers = (
        (
            torch.optim.SGD(both.one.parameters(), lr=0.1),
            torch.optim.SGD([p for _, p in held.named_parameters()], lr=0.1),
        )
        if config is None
        else (
            build_optimizer(config, both.one),
            build_optimizer(config, held, both.ranks.whole),
        )
    )
    for _ in range(steps):
        both.step_one()
        both.step_many()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    found, largest = {}, 0.0
    for name, param in both.one.named_parameters():
        block = both.ranks.weights(both.many)[name].detach()
        update = param.detach() - before[name]
        largest = max(largest, float(update.abs().max()))
        whole = both.gathered(name, block)
        if whole is not None:
            found[name] = float((whole - param.detach()).abs().max())
    return {name: off / largest for name, off in found.items()}


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=SLOW)])
@pytest.mark.parametrize(
    "config",
    [
        None,
        AdamWConfig(epsilon=1e-4, weight_decay=0.1),
        AdafactorConfig(learning_rate=0.1, min_factored=4, epsilon1=1e-8),
    ],
    ids=["sgd", "adamw", "adafactor"],
)
def test_weights_after_three_steps(ranks: Ranks, size: int, config: OptimizerConfig | None) -> None:
    for name in NAMES:
        for plan in PLANS[size]:
            found = ranks(size).run(updates, Case(MODELS[name], plan), config, 3)
            assert too_far(found, 1e-4) == {}, (name, plan)


@pytest.mark.parametrize("name", NAMES)
def test_no_weight_of_these_models_has_a_gradient_of_zero(name: str) -> None:
    # An optimiser that divides by the gradient's size would turn the rounding that is left of a
    # true zero into steps, as of the bias of keys, which moves no softmax: here it is not alone,
    # for keys are turned by their positions and compete with sinks.
    case = Case(MODELS[name], P())
    model, batches = whole_model(case), batches_of(case)
    objective = build_objective(case.losses, case.model)
    objective(model, batches[0], objective.totals(batches), None).total.backward()  # type: ignore[no-untyped-call]
    found = {
        n: float(p.grad.abs().max()) for n, p in model.named_parameters() if p.grad is not None
    }
    assert found.keys() == dict(model.named_parameters()).keys()
    assert {n: size for n, size in found.items() if size < 1e-5 * max(found.values())} == {}


@SLOW
def test_adafactor_of_experts_sharded_twice(ranks: Ranks) -> None:
    config = AdafactorConfig(learning_rate=0.1, min_factored=4, epsilon1=1e-8)
    for plan in (P(expert=2), P(expert=2, tensor=2), P(expert=4)):
        case = Case(MODELS["decoder, switch at capacity 1"], plan)
        assert too_far(ranks(4).run(updates, case, config, 3), 1e-4) == {}, plan


def decisions(case: Case) -> list[bool]:
    """Job: whether each layer's decisions for this rank's rows are those of one process."""
    both = Both.of(case)
    with torch.no_grad():
        one = both.one(both.whole[0], routing=True).routing
        many = both.many(both.own[0], routing=True).routing
    rows = both.own[0].targets.shape[0]
    first = both.ranks.batch_rank * rows
    width = both.whole[0].targets.shape[1]
    assert one is not None and many is not None
    return [
        torch.equal(left.expert[first : first + rows], right.expert[:, :width])
        for left, right in zip(one.layers, many.layers, strict=True)
    ]


def least_margin(case: Case) -> float:
    """How far the logits of a token's chosen experts, and of the next one, lie apart at least."""
    model, batch = whole_model(case), batches_of(case)[0]
    gaps: list[float] = []

    def note(router: SoftmaxRouter, args: tuple[Tensor, RoutingContext]) -> None:
        x, context = args
        logits = x[context.mask].double() @ router.weight.double().T
        best = logits.sort(dim=1, descending=True).values[:, : router.choices + 1]
        gaps.append(float((best[:, :-1] - best[:, 1:]).min()))

    for layer in model.sparse_layers().values():
        layer.router.register_forward_pre_hook(note)
    with torch.no_grad():
        model(batch)
    assert len(gaps) == len(model.sparse_layers())
    return min(gaps)


@pytest.mark.parametrize("name", [*MODELS, *(pytest.param(name, marks=SLOW) for name in MORE)])
@pytest.mark.parametrize("size", [2, pytest.param(4, marks=SLOW)])
def test_decisions_are_those_of_one_process(ranks: Ranks, size: int, name: str) -> None:
    # Without ties: layouts round logits differently, by some 1e-6.
    assert least_margin(Case(ALL[name], P())) > MARGIN
    for plan in PLANS[size]:
        found = ranks(size).run(decisions, Case(ALL[name], plan))
        assert all(map(all, found)), plan


def test_bfloat16_on_the_wire_rounds_and_no_more(ranks: Ranks) -> None:
    case = Case(MODELS["decoder, top-2 dropless"], P(expert=2, wire="bfloat16"))
    found = ranks(2).run(differences, case)
    worst = max(value for one in found for value in one.values())
    # A bfloat16 has 8 bits: rows are rounded four times on their way.
    assert 1e-5 < worst < 4 * 2**-7
    assert too_far(ranks(2).run(differences, replace(case, plan=P(expert=2)))) == {}
