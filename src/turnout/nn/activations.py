"""The activations of a feed-forward network, gated or not."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from turnout.config.feed_forward import Activation


def activate(
    name: Activation, x_in: Float[Tensor, "*N F"], x_gate: Float[Tensor, "*N F"] | None = None
) -> Float[Tensor, "*N F"]:
    """``act(x_in)``, or ``act(x_gate) * x_in`` for ``geglu`` and ``swiglu``.

    GELU is the tanh approximation of T5 1.1's code.
    """
    source = x_in if x_gate is None else x_gate
    if name == "relu":
        active = F.relu(source)
    elif name == "swiglu":
        active = F.silu(source)
    else:
        active = F.gelu(source, approximate="tanh")
    return active if x_gate is None else active * x_in
