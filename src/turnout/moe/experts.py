"""Stacked experts: E functions of a row, one parameter a matrix. They know no routing.

Axes: N rows sorted by expert, E experts, D width, F hidden width, O output width.
"""

from abc import ABC, abstractmethod
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.moe import ProductName
from turnout.moe.adapter import StackedAdapter, adapted
from turnout.moe.products import grouped_product
from turnout.nn.activations import activate
from turnout.nn.feed_forward import apply_hidden_bias, init_network
from turnout.nn.init import matrix_normal_


class ExpertStack(nn.Module, ABC):
    """What a layer's experts are to it: E functions of a row, applied to rows sorted by expert.

    Attributes:
        num_experts: E.
        init_scale: s of the truncated normal of std sqrt(s / fan_in) that they start from.
    """

    num_experts: int
    init_scale: float

    @abstractmethod
    def init_weights(
        self, generator: torch.Generator | None = None, *, std: float | None = None
    ) -> None:
        """Draws the initial weights; ``std`` replaces the fan-in rule."""

    @abstractmethod
    def forward(
        self, rows: Float[Tensor, "N D"], offsets: Int[Tensor, " E"]
    ) -> Float[Tensor, "N O"]:
        """Applies expert e to rows ``offsets[e-1] .. offsets[e]``; the rows past the last count
        for nothing."""


@final
class Experts(ExpertStack):
    """``E`` networks ``act(x W_in) W_out``, gated and with biases as the configuration says.

    Weights are stacked [E, D, F] and [E, F, D], float32, and cast to the dtype of the rows.
    ``dropout`` is the paper's expert dropout: on the hidden activation (Switch section 2.4).

    Attributes:
        w_in_lora, w_gate_lora, w_out_lora: what ``models.adapters`` puts beside the matrices.
    """

    def __init__(
        self,
        num_experts: int,
        d_model: int,
        config: FeedForwardConfig,
        *,
        dropout: float = 0.0,
        init_scale: float = 0.1,
        product: ProductName = "auto",
    ) -> None:
        super().__init__()
        self.config = config
        self.num_experts = num_experts
        self.init_scale = init_scale
        self.product = product
        self.dropout = nn.Dropout(dropout)
        into, out = (num_experts, d_model, config.d_ff), (num_experts, config.d_ff, d_model)
        hidden = (num_experts, config.d_ff) if config.bias else None
        self.w_in = nn.Parameter(torch.empty(into))
        self.w_gate = nn.Parameter(torch.empty(into)) if config.gated else None
        self.w_out = nn.Parameter(torch.empty(out))
        self.b_in = _parameter(hidden)
        self.b_gate = _parameter(hidden if config.gated else None)
        self.b_out = _parameter((num_experts, d_model) if config.bias else None)
        self.hidden_bias = _parameter(
            (num_experts, config.d_ff) if config.hidden_bias != "none" else None
        )
        self.w_in_lora: StackedAdapter | None = None
        self.w_gate_lora: StackedAdapter | None = None
        self.w_out_lora: StackedAdapter | None = None

    def init_weights(
        self, generator: torch.Generator | None = None, *, std: float | None = None
    ) -> None:
        """Truncated normal of true std ``sqrt(init_scale / fan_in)``, fan-in of one expert."""
        init_network(self, generator, std=std, scale=self.init_scale)

    def forward(
        self, rows: Float[Tensor, "N D"], offsets: Int[Tensor, " E"]
    ) -> Float[Tensor, "N D"]:
        """Applies expert e to rows ``offsets[e-1] .. offsets[e]``; rows past the last are zero
        through every product and take no part in a gradient."""
        of_row = expert_of_row(rows.shape[0], offsets)
        x_gate = None
        if self.w_gate is not None:
            x_gate = self._project(rows, self.w_gate, self.b_gate, offsets, of_row)
            x_gate = adapted(x_gate, rows, offsets, self.w_gate_lora)
        x_in = self._project(rows, self.w_in, self.b_in, offsets, of_row)
        x_in = adapted(x_in, rows, offsets, self.w_in_lora)
        hidden = activate(self.config.activation, x_in, x_gate)
        if self.hidden_bias is not None:
            bias = self.hidden_bias.to(rows.dtype).index_select(0, of_row)
            hidden = apply_hidden_bias(hidden, bias, self.config)
        hidden = self.dropout(hidden)
        y = self._project(hidden, self.w_out, self.b_out, offsets, of_row)
        return adapted(y, hidden, offsets, self.w_out_lora)

    def _project(
        self,
        rows: Float[Tensor, "N D"],
        weight: Float[Tensor, "E D F"],
        bias: Float[Tensor, "E F"] | None,
        offsets: Int[Tensor, " E"],
        of_row: Int[Tensor, " N"],
    ) -> Float[Tensor, "N F"]:
        out = grouped_product(rows, weight, offsets, self.product)
        if bias is None:
            return out
        return out + bias.to(rows.dtype).index_select(0, of_row)


@final
class LinearExperts(ExpertStack):
    """``E`` linear maps ``x W`` without bias, such as attention's projections (Switch
    Transformers, 2101.03961, figure 10).

    ``weight`` is [E, D, O], float32, and cast to the dtype of the rows.

    Attributes:
        weight_lora: what ``models.adapters`` puts beside it.
    """

    def __init__(
        self,
        num_experts: int,
        inputs: int,
        outputs: int,
        *,
        init_scale: float = 0.1,
        product: ProductName = "auto",
    ) -> None:
        super().__init__()
        self.num_experts = num_experts
        self.init_scale = init_scale
        self.product = product
        self.weight = nn.Parameter(torch.empty(num_experts, inputs, outputs))
        self.weight_lora: StackedAdapter | None = None

    def init_weights(
        self, generator: torch.Generator | None = None, *, std: float | None = None
    ) -> None:
        """Truncated normal of true std ``sqrt(init_scale / D)``."""
        matrix_normal_(self.weight, generator, scale=self.init_scale, std=std)

    def forward(
        self, rows: Float[Tensor, "N D"], offsets: Int[Tensor, " E"]
    ) -> Float[Tensor, "N O"]:
        """Applies expert e to rows ``offsets[e-1] .. offsets[e]``; rows past the last are zero
        through the product and take no part in a gradient."""
        y = grouped_product(rows, self.weight, offsets, self.product)
        return adapted(y, rows, offsets, self.weight_lora)


def expert_of_row(rows: int, offsets: Int[Tensor, " E"]) -> Int[Tensor, " N"]:
    """The expert of each row; rows past the last offset read as the last expert."""
    index = torch.arange(rows, device=offsets.device, dtype=offsets.dtype)
    found = torch.searchsorted(offsets, index, right=True)
    return found.clamp(max=offsets.shape[0] - 1)


def _parameter(shape: tuple[int, ...] | None) -> nn.Parameter | None:
    return None if shape is None else nn.Parameter(torch.empty(shape))
