"""The labels of the rows, for routers that read them. Axes: B rows, S positions, T tokens."""

import torch
from jaxtyping import Int
from torch import Tensor

from turnout.config.errors import UserError
from turnout.moe.context import RoutingContext


def row_labels(context: RoutingContext, labels: int, kind: str) -> Int[Tensor, " B"]:
    """The label of each row, 0 .. ``labels`` - 1.

    Args:
        kind: the router's, for messages.

    Raises:
        UserError: there are none, or one lies outside.
    """
    if context.labels is None:
        raise UserError(
            f"moe.router.kind = {kind!r}: reads a label of each row and there is none; train on "
            "data.mixture, whose sources are the labels, generate with a label, or set Batch.labels"
        )
    found: Tensor = torch.ops.turnout.checked_labels(context.labels, labels, kind)
    return found


def token_labels(context: RoutingContext, labels: int, kind: str) -> Int[Tensor, " T"]:
    """``row_labels``, for each token its row's."""
    rows = row_labels(context, labels, kind)
    return rows.unsqueeze(1).expand(context.mask.shape).flatten()


@torch.library.custom_op("turnout::checked_labels", mutates_args=())
def _checked_labels(labels: Tensor, known: int, kind: str) -> Tensor:
    # Compiled code cannot read a tensor to refuse it; an operator of its own can. Elsewhere than
    # on a CPU reading would wait for the device, whose own bounds check stops the run.
    if labels.device.type == "cpu" and bool(((labels < 0) | (labels >= known)).any()):
        low, high = int(labels.min()), int(labels.max())
        raise UserError(
            f"moe.router.kind = {kind!r}: a row has label {low if low < 0 else high}, the router "
            f"knows labels 0 to {known - 1}; give it more labels, or relabel the rows"
        )
    return labels.clone()


@_checked_labels.register_fake
def _(labels: Tensor, known: int, kind: str) -> Tensor:
    return torch.empty_like(labels)
