"""The activations of a feed-forward network, gated or not."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from turnout.config.feed_forward import Activation

# Of gpt-oss's clamped SwiGLU; at this slope g sigmoid(slope g) is close to GELU.
CLAMP = 7.0
SLOPE = 1.702


def activate(
    name: Activation, x_in: Float[Tensor, "*N F"], x_gate: Float[Tensor, "*N F"] | None = None
) -> Float[Tensor, "*N F"]:
    """``act(x_in)``, or ``act(x_gate) * x_in`` for the gated forms.

    GELU is the tanh approximation of T5 1.1's code; ``clamped_swiglu`` as in ``FeedForwardConfig``.
    """
    if name == "clamped_swiglu" and x_gate is not None:
        gate, up = x_gate.clamp(max=CLAMP), x_in.clamp(-CLAMP, CLAMP)
        return gate * torch.sigmoid(SLOPE * gate) * (up + 1)
    source = x_in if x_gate is None else x_gate
    if name == "relu":
        active = F.relu(source)
    elif name == "swiglu":
        active = F.silu(source)
    else:
        active = F.gelu(source, approximate="tanh")
    return active if x_gate is None else active * x_in
