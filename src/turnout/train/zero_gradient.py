"""No loss is on in name alone: every router term must reach a router."""

from collections.abc import Sequence

import torch
from torch import Tensor

from turnout.config.errors import UserError
from turnout.data.batch import Batch
from turnout.models.base import Model
from turnout.models.modes import training
from turnout.objectives import LanguageObjective

ROUTER_TERMS = ("balance", "router_z", "importance", "load", "entropy")


def trainable_router(model: Model) -> list[Tensor]:
    """The router parameters that train."""
    layers = model.sparse_layers().values()
    return [p for layer in layers for p in layer.router.parameters() if p.requires_grad]


def check_coefficients(
    model: Model, objective: LanguageObjective, batches: Sequence[Batch]
) -> None:
    """Refuse a coefficient above zero whose gradient on every trainable router is exactly zero.

    Looks at the first micro-batch, in training mode. With one expert, without sparse layers, or
    with all routers frozen there is nothing to balance, and the run header says OFF.

    Raises:
        UserError: names the coefficients.
    """
    on = [name for name in ROUTER_TERMS if getattr(objective.losses, name) > 0]
    parameters = trainable_router(model)
    if not on or not parameters or objective.moe is None or objective.moe.num_experts == 1:
        return
    with training(model):
        layers = model(batches[0]).layers
    terms = objective.layer_terms(layers, objective.totals(batches[:1]), None)
    dead = [name for name in on if not _reaches(terms[name], parameters)]
    if dead:
        router = objective.moe.router.kind
        raise UserError(
            f"losses.{dead[0]} = {getattr(objective.losses, dead[0])}: has no gradient on any "
            f"router of kind {router!r}; must be 0 with this router, or choose one that reports it"
        )


def _reaches(term: Tensor, parameters: list[Tensor]) -> bool:
    if not term.requires_grad:
        return False
    found = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
    return any(grad is not None and bool(grad.any()) for grad in found)
