"""Grouped products as an implementation of the library's experts.

Axes: T tokens, K choices, N = T * K rows, D width, E experts.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from turnout.config.moe import ProductName
from turnout.integrations.transformers.layout import Layout
from turnout.integrations.transformers.library import experts_interface
from turnout.integrations.transformers.order import Order
from turnout.integrations.transformers.turns import in_turn
from turnout.kernels.grouped import GROUPED
from turnout.moe.products import grouped_linear, grouped_product

NAME = "turnout"
# What the library calls in place of a module's ``forward``: of the module, states [T, D], and the
# experts and combine weights [T, K] of its router.
Implementation = Callable[[Any, Tensor, Tensor, Tensor], Tensor]


def use(product: ProductName = "auto") -> None:
    """Registers our experts with transformers, for ``experts_implementation="turnout"``.

    Every model whose experts are stacked can be built, loaded or switched
    (``model.set_experts_implementation``) with that name. Weights, names and outputs stay theirs.

    Args:
        product: the backend of the grouped product; ``auto`` chooses by shape, and on CPUs takes
            the experts in turn, unless the kernels in C++ were built beforehand (``turnout doctor
            --build``): by them grouped products are the faster way.

    Raises:
        UserError: transformers is missing, or older than its experts interface.
    """
    experts_interface().register(NAME, implementation(product))


def implementation(product: ProductName = "auto") -> Implementation:
    """Ours, with this backend of the product."""

    def forward(
        module: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor
    ) -> Tensor:
        layout = Layout.of(module)
        order = Order.of(top_k_index, layout.num_experts)
        by_kernels = GROUPED.prefers(layout.dtype, layout.up.dtype)
        if product == "auto" and suits(layout) and not by_kernels:
            return in_turn(layout, order, hidden_states, top_k_weights)
        return grouped(layout, order, hidden_states, top_k_weights, product)

    return forward


def suits(layout: Layout) -> bool:
    """Whether the experts may be taken in turn: on CPUs, where it is faster than grouped products
    of PyTorch; it reads the loads, so that a compiled graph would break there."""
    on_host = layout.up.device.type == "cpu" and not torch.compiler.is_compiling()
    return on_host and layout.alone and layout.norm is None


def grouped(
    layout: Layout,
    order: Order,
    x: Float[Tensor, "T D"],
    weight: Float[Tensor, "T K"],
    product: ProductName = "auto",
) -> Float[Tensor, "T D"]:
    """``y[t] = sum over k of weight[t, k] * expert(x[t])``, summed in float32 or wider.

    Rows sorted by expert, one grouped product a matrix; shapes are static, so it compiles.
    """
    entries = order.entry.shape[0]
    place = torch.arange(entries, device=x.device)
    served = place < order.offsets[-1]
    of_row = torch.searchsorted(order.offsets, place.to(torch.int32), right=True)
    of_row = of_row.clamp(max=layout.num_experts - 1)
    rows = x.index_select(0, order.token).to(layout.dtype)

    def project(rows: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
        multiply = grouped_product if layout.transposed else grouped_linear
        out = multiply(rows, matrix, order.offsets, product)
        return out if bias is None else out + bias.to(layout.dtype).index_select(0, of_row)

    hidden = layout.activation(project(rows, layout.up, layout.up_bias))
    out = project(hidden.to(layout.dtype), layout.down, layout.down_bias)
    out = out if layout.norm is None else layout.norm(out)
    row = torch.zeros_like(order.entry).scatter(0, order.entry, place)
    home = out.index_select(0, row).view(*weight.shape, x.shape[1])
    # A choice that is served elsewhere counts for nothing here, whatever its weight.
    kept = served.index_select(0, row).view(weight.shape)
    weight = torch.where(kept, weight, 0.0).to(torch.promote_types(weight.dtype, torch.float32))
    return (home * weight.unsqueeze(2)).sum(1).to(x.dtype)
