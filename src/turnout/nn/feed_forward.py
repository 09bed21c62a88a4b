"""The dense feed-forward network: the twin of one expert. Axes: D width, F hidden width."""

from typing import Protocol, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from turnout.config.feed_forward import FeedForwardConfig
from turnout.nn.activations import activate
from turnout.nn.init import matrix_normal_
from turnout.nn.linear import MatrixAdapter, adapted, linear
from turnout.nn.packed import packed_linear


@final
class FeedForward(nn.Module):
    """``y = act(x W_in) W_out``, gated and with biases as the configuration says.

    Weights are float32 and cast to the dtype of ``x``; dropout acts on the hidden activation.

    Attributes:
        packed: whether matrices and biases are those of ``models.prepared``.
        w_in_lora, w_gate_lora, w_out_lora: what ``models.adapters`` puts beside the matrices.
    """

    def __init__(self, d_model: int, config: FeedForwardConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.packed = False
        self.dropout = nn.Dropout(dropout)
        self.w_in = nn.Parameter(torch.empty(config.d_ff, d_model))
        self.w_gate = nn.Parameter(torch.empty(config.d_ff, d_model)) if config.gated else None
        self.w_out = nn.Parameter(torch.empty(d_model, config.d_ff))
        hidden = config.d_ff if config.bias else None
        self.b_in = _vector(hidden)
        self.b_gate = _vector(hidden if config.gated else None)
        self.b_out = _vector(d_model if config.bias else None)
        self.hidden_bias = _vector(config.d_ff if config.hidden_bias != "none" else None)
        self.w_in_lora: MatrixAdapter | None = None
        self.w_gate_lora: MatrixAdapter | None = None
        self.w_out_lora: MatrixAdapter | None = None

    def init_weights(
        self,
        generator: torch.Generator | None = None,
        *,
        std: float | None = None,
        scale: float = 1.0,
    ) -> None:
        """Truncated normal of std ``sqrt(scale / fan_in)``, or of ``std`` where given."""
        init_network(self, generator, std=std, scale=scale)

    def forward(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
        product = packed_linear if self.packed else linear
        x_gate = None
        if self.w_gate is not None:
            x_gate = adapted(product(x, self.w_gate, self.b_gate), x, self.w_gate_lora)
        x_in = adapted(product(x, self.w_in, self.b_in), x, self.w_in_lora)
        hidden = activate(self.config.activation, x_in, x_gate)
        if self.hidden_bias is not None:
            hidden = apply_hidden_bias(hidden, self.hidden_bias.to(x.dtype), self.config)
        hidden = self.dropout(hidden)
        return adapted(product(hidden, self.w_out, self.b_out), hidden, self.w_out_lora)


@runtime_checkable
class Network(Protocol):
    """The parameters of a feed-forward network, of one or stacked of many."""

    config: FeedForwardConfig
    w_in: nn.Parameter
    w_gate: nn.Parameter | None
    w_out: nn.Parameter
    b_in: nn.Parameter | None
    b_gate: nn.Parameter | None
    b_out: nn.Parameter | None
    hidden_bias: nn.Parameter | None


def init_network(
    network: Network, generator: torch.Generator | None, *, std: float | None, scale: float
) -> None:
    """Matrices as ``matrix_normal_`` says, biases 0, ST-MoE's B neutral."""
    for weight in (network.w_in, network.w_gate, network.w_out):
        if weight is not None:
            matrix_normal_(weight, generator, scale=scale, std=std)
    for bias in (network.b_in, network.b_gate, network.b_out):
        if bias is not None:
            nn.init.zeros_(bias)
    if network.hidden_bias is not None:
        neutral = float(network.config.hidden_bias == "multiplicative")
        nn.init.constant_(network.hidden_bias, neutral)


def apply_hidden_bias(
    hidden: Float[Tensor, "*N F"], bias: Float[Tensor, "*M F"], config: FeedForwardConfig
) -> Float[Tensor, "*N F"]:
    """ST-MoE's B: added to, or multiplied with, the hidden activation before ``W_out``."""
    return hidden * bias if config.hidden_bias == "multiplicative" else hidden + bias


def _vector(size: int | None) -> nn.Parameter | None:
    return None if size is None else nn.Parameter(torch.empty(size))
