"""Experts whose matrices lie as a product reads them fastest, to compute many passes from.

Axes: N rows sorted by expert, E experts, D width, F hidden width.
"""

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from turnout.moe.experts import Experts, ExpertStack, expert_of_row
from turnout.nn.activations import activate
from turnout.nn.feed_forward import apply_hidden_bias
from turnout.nn.packed import PackedStack, packed_stack


@final
class PackedExperts(ExpertStack):
    """``Experts`` with a packed matrix for each expert, and vectors cast, to be read from alone."""

    def __init__(self, experts: Experts, dtype: torch.dtype) -> None:
        super().__init__()
        self.num_experts = experts.num_experts
        self.init_scale = experts.init_scale
        self.config = experts.config
        _, self.d_model, self.d_ff = experts.w_in.shape
        self.w_in = packed_stack(experts.w_in, dtype)
        self.w_gate = None if experts.w_gate is None else packed_stack(experts.w_gate, dtype)
        self.w_out = packed_stack(experts.w_out, dtype)
        self.b_in = _cast(experts.b_in, dtype)
        self.b_gate = _cast(experts.b_gate, dtype)
        self.b_out = _cast(experts.b_out, dtype)
        self.hidden_bias = _cast(experts.hidden_bias, dtype)

    def init_weights(
        self, generator: torch.Generator | None = None, *, std: float | None = None
    ) -> None:
        """Packed matrices are made from others: they are not drawn."""
        raise RuntimeError("experts of a prepared model have no weights of their own to draw")

    def forward(
        self, rows: Float[Tensor, "N D"], offsets: Int[Tensor, " E"]
    ) -> Float[Tensor, "N D"]:
        """As ``Experts.forward``."""
        x_gate = None
        if self.w_gate is not None:
            x_gate = _project(rows, self.w_gate, self.b_gate, offsets)
        x_in = _project(rows, self.w_in, self.b_in, offsets)
        hidden = activate(self.config.activation, x_in, x_gate)
        if self.hidden_bias is not None:
            bias = self.hidden_bias.index_select(0, expert_of_row(rows.shape[0], offsets))
            hidden = apply_hidden_bias(hidden, bias, self.config)
        return _project(hidden, self.w_out, self.b_out, offsets)


def _project(
    rows: Float[Tensor, "N I"],
    weights: PackedStack,
    bias: Float[Tensor, "E O"] | None,
    offsets: Int[Tensor, " E"],
) -> Float[Tensor, "N O"]:
    out: Tensor = weights(rows, offsets)
    if bias is None:
        return out
    return out + bias.index_select(0, expert_of_row(rows.shape[0], offsets))


def _cast(stacked: Tensor | None, dtype: torch.dtype) -> nn.Parameter | None:
    if stacked is None:
        return None
    return nn.Parameter(stacked.detach().to(dtype), requires_grad=False)
