"""The feed-forward network: one shape for a dense layer and for each expert."""

from dataclasses import dataclass
from typing import Literal

from turnout.config.errors import check_words, require

Activation = Literal["relu", "gelu", "geglu", "swiglu", "clamped_swiglu"]
HiddenBias = Literal["none", "additive", "multiplicative"]
GATED: tuple[Activation, ...] = ("geglu", "swiglu", "clamped_swiglu")


@dataclass(frozen=True)
class FeedForwardConfig:
    """``y = act(x W_in) W_out``, or ``y = (act(x W_gate) * x W_in) W_out`` when gated.

    GELU is the tanh approximation, as in the JAX code of T5 1.1. ``clamped_swiglu`` is gpt-oss's:
    with g = min(x W_gate, 7) and u = x W_in held within -7 .. 7, the hidden activation is
    ``g sigmoid(1.702 g) (u + 1)``. ``hidden_bias`` is the B of
    ST-MoE (2202.08906, appendix C): ``[.. + B] W_out`` (starts at 0) or ``[.. * B] W_out``
    (starts at 1).
    """

    d_ff: int
    activation: Activation = "relu"
    bias: bool = False
    hidden_bias: HiddenBias = "none"

    def __post_init__(self) -> None:
        check_words(self, "feed_forward")
        require(self.d_ff >= 1, "feed_forward.d_ff", self.d_ff, "at least 1")

    @property
    def gated(self) -> bool:
        return self.activation in GATED

    @property
    def num_matrices(self) -> int:
        return 3 if self.gated else 2

    def num_params(self, d_model: int) -> int:
        """Parameters of one network of input and output width ``d_model``."""
        count = self.num_matrices * d_model * self.d_ff
        if self.bias:
            count += (self.num_matrices - 1) * self.d_ff + d_model
        if self.hidden_bias != "none":
            count += self.d_ff
        return count
