"""Defects of real systems, planted one at a time into a sound layer."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from turnout.config.routers import InputJitter, RouterConfig, SwitchRouter, TopKRouter
from turnout.conformance import RouterLayer, Seen, Setting, Subject
from turnout.moe import Assignment, CapacityRule, MoELayer, Router, RouterStats, RoutingContext
from turnout.moe.dispatch import build_dispatcher
from turnout.moe.experts import Experts, ExpertStack
from turnout.moe.priority import ChoiceOrder

Routed = tuple[Assignment, RouterStats]
Answer = Callable[[Router, Tensor, RoutingContext], Routed]


class Bent(Router):
    """A router whose answers are bent by a function."""

    def __init__(self, inner: Router, answer: Answer) -> None:
        super().__init__(choices=inner.choices, active=inner.active, at_most=inner.at_most)
        self.inner = inner
        self.answer = answer

    def init_weights(self, generator=None, *, std=None):
        self.inner.init_weights(generator, std=std)

    def forward(self, x, context):
        return self.answer(self.inner, x, context)


class Around(nn.Module):
    """A module around a layer, which changes what goes in or comes out."""

    def __init__(self, inner: MoELayer, answer: Callable[..., tuple]) -> None:
        super().__init__()
        self.inner = inner
        self.answer = answer
        self.router, self.experts = inner.router, inner.experts
        self.priority, self.capacity = inner.priority, inner.capacity
        self.calls = 0

    def forward(self, x, context):
        return self.answer(self, x, context)


class Planted(Subject):
    """A layer with a defect; it claims what the sound layer claims."""

    white_box, takes_capacity, pads = True, True, True

    def __init__(self, name: str, plant: Callable[[MoELayer], nn.Module], router: RouterConfig):
        self.name = name
        self.plant = plant
        self.sound = RouterLayer(router)
        self.d_model = self.sound.d_model
        self.zero_z = self.sound.zero_z

    def layer(self, setting: Setting) -> nn.Module:
        return self.plant(self.sound.layer(setting)).train()

    def see(self, layer: nn.Module, x: Tensor, context: RoutingContext) -> Seen:
        return Seen(*layer(x, context))

    def causal(self, setting: Setting) -> bool:
        return True

    def batch_invariant(self, setting: Setting) -> bool:
        return True


def rebuilt(layer: MoELayer, **parts) -> MoELayer:
    """The same layer with other parts."""
    given = {
        "router": layer.router,
        "experts": layer.experts,
        "dispatcher": build_dispatcher("sorted"),
        "priority": layer.priority,
        "capacity": layer.capacity,
        **parts,
    }
    return MoELayer(**given)


def bent(answer: Answer) -> Callable[[MoELayer], MoELayer]:
    return lambda layer: rebuilt(layer, router=Bent(layer.router, answer))


def padding_counted(inner, x, context):
    stats = inner(x, replace(context, mask=torch.ones_like(context.mask)))[1]
    return inner(x, context)[0], stats


def padding_takes_a_slot(inner, x, context):
    assignment, stats = inner(x, context)
    return replace(assignment, live=torch.ones_like(assignment.live)), stats


def noise_in_evaluation(inner, x, context):
    return inner.train()(x, context)


def averaged(inner, x, context):
    assignment, stats = inner(x, context)
    rows = context.num_groups
    return assignment, replace(stats, probability=stats.probability / rows, z=stats.z / rows)


def unseeded(inner, x, context):
    return inner(x + 0.3 * torch.randn(x.shape) if inner.training else x, context)


def in_the_dtype_of_its_input(inner, x, context):
    noisy = (x.to(torch.bfloat16) @ inner.weight.to(torch.bfloat16).t()).float()
    assignment, stats = inner(x, context)
    if x.dtype == torch.float32:
        return assignment, stats
    expert = noisy.flatten(0, 1).argmax(1)
    return replace(assignment, expert=expert), stats


def normed_over_the_batch(inner, x, context):
    return inner(x - x.nan_to_num().mean((0, 1)), context)


def the_same_expert_twice(inner, x, context):
    assignment, stats = inner(x, context)
    first = assignment.expert.view(-1, 2)[:, :1].expand(-1, 2)
    return replace(assignment, expert=first.flatten()), stats


def by_position(inner, x, context):
    late = torch.arange(x.shape[1]) >= 4
    return inner(torch.where(late.unsqueeze(1), -x, x), context)


def read_on_the_host(inner, x, context):
    if bool((x.detach() > 1e9).any()):  # a branch by what is in a tensor
        x = -x
    return inner(x, context)


def unnormalised(inner, x, context):
    assignment, stats = inner(x, context)
    return assignment, replace(stats, probability=2 * stats.probability)


def jitter_reaches_the_expert(layer: MoELayer) -> nn.Module:
    def answer(self, x, context):
        draw = torch.rand(x.shape, generator=torch.Generator().manual_seed(7))
        return self.inner(x * (0.9 + 0.2 * draw) if self.training else x, context)

    return Around(layer, answer)


def counted_in_forward(layer: MoELayer) -> nn.Module:
    """A counter that every forward pass moves, the recomputed one too."""

    def answer(self, x, context):
        self.calls += 1
        y, stats, decision = self.inner(x, context)
        return y, replace(stats, kept=stats.kept + self.calls), decision

    return Around(layer, answer)


def choice_order(layer: MoELayer) -> nn.Module:
    return rebuilt(layer, priority=ChoiceOrder())


class AllButTheLast(ExpertStack):
    """Experts whose last one is forgotten: an off-by-one in a loop over the ends."""

    def __init__(self, experts: Experts) -> None:
        super().__init__()
        self.inner = experts
        self.num_experts, self.init_scale = experts.num_experts, experts.init_scale
        self.w_in, self.w_out = experts.w_in, experts.w_out

    def init_weights(self, generator=None, *, std=None):
        self.inner.init_weights(generator, std=std)

    def forward(self, rows, offsets):
        y = self.inner(rows, offsets)
        here = torch.arange(len(y)) < offsets[-2]
        return torch.where(here.unsqueeze(1), y, 0.0)


def last_expert_dropped(layer: MoELayer) -> nn.Module:
    return rebuilt(layer, experts=AllButTheLast(layer.experts))


def weight_lost_on_drop(layer: MoELayer) -> nn.Module:
    """A token that loses a choice loses the weight of the others too."""

    def answer(self, x, context):
        y, stats, decision = self.inner(x, context)
        whole = (decision.expert >= 0).all(2, keepdim=True)
        weight = torch.where(whole, decision.weight, 0.5 * decision.weight)
        return y * torch.where(whole, 1.0, 0.5), stats, replace(decision, weight=weight)

    return Around(layer, answer)


def capacity_from_the_real_length(layer: MoELayer) -> nn.Module:
    def answer(self, x, context):
        if self.inner.capacity.train is None:
            return self.inner(x, context)
        rows, experts = x.shape[0], self.experts.num_experts
        slots = max(1, round(0.5 * int(context.mask.sum()) / rows / experts * 2))
        tight = rebuilt(self.inner, capacity=CapacityRule(slots, slots)).train(self.training)
        return tight(x, context)

    return Around(layer, answer)


def nan_rows_summed(layer: MoELayer) -> nn.Module:
    """Padding is taken out by a product with zero, which NaN survives."""

    def answer(self, x, context):
        y, stats, decision = self.inner(x, context)
        mean = (x * context.mask.unsqueeze(-1)).mean()
        return y + 0.0 * mean, stats, decision

    return Around(layer, answer)


TOP_2, SWITCH = TopKRouter(2, "raw"), SwitchRouter()
# defect -> (how it is planted, into which router, the property that names it)
DEFECTS: dict[str, tuple[Callable[[MoELayer], nn.Module], RouterConfig, str]] = {
    "padding counted": (bent(padding_counted), SWITCH, "counts"),
    "padding takes a slot": (bent(padding_takes_a_slot), SWITCH, "slots"),
    "jitter reaches the expert": (jitter_reaches_the_expert, SWITCH, "quiet input"),
    "noise in evaluation": (
        bent(noise_in_evaluation),
        SwitchRouter(InputJitter(0.3)),
        "evaluation",
    ),
    "averaged micro-batches": (bent(averaged), SWITCH, "micro-batches"),
    "double count under recomputation": (counted_in_forward, SWITCH, "recomputation"),
    "choice-order leak": (choice_order, TOP_2, "causal"),
    "last expert dropped": (last_expert_dropped, TOP_2, "gradients"),
    "weight lost on drop": (weight_lost_on_drop, TOP_2, "weights conserved"),
    "unseeded noise": (bent(unseeded), SWITCH, "stateless noise"),
    "future-dependent capacity": (capacity_from_the_real_length, SWITCH, "causal"),
    "NaN rows summed": (nan_rows_summed, SWITCH, "finite"),
    "router in bfloat16": (bent(in_the_dtype_of_its_input), SWITCH, "float32 inside"),
    "normed over the batch": (bent(normed_over_the_batch), SWITCH, "batch mates"),
    "the same expert twice": (bent(the_same_expert_twice), TOP_2, "slots"),
    "routing by position": (bent(by_position), SWITCH, "permutation"),
    "read on the host": (bent(read_on_the_host), SWITCH, "compiled"),
    "probabilities of two": (bent(unnormalised), SWITCH, "known losses"),
}
