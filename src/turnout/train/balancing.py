"""Routers whose balancers follow the loads of the experts learn of each step's."""

from collections.abc import Sequence

import torch

from turnout.models.base import Model
from turnout.moe.stats import LayerStats


@torch.no_grad()
def follow_loads(model: Model, parts: Sequence[Sequence[LayerStats]]) -> None:
    """Tells every balancer the counts of a step, but those of routers that do not train.

    Args:
        parts: the layers' statistics of each micro-batch.
    """
    layers = model.sparse_layers()
    for stats in zip(*parts, strict=True):
        router = layers[stats[0].name].router
        balancer = router.balancer
        if balancer is not None and any(p.requires_grad for p in router.parameters()):
            assigned = torch.stack([part.router.assigned.sum(0) for part in stats]).sum(0)
            balancer.after_step(assigned, sum(int(part.router.tokens.sum()) for part in stats))
