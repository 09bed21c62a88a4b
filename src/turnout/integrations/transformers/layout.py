"""How a stack of the library's experts lays out its weights.

Axes: E experts, D width, F hidden width, U rows of the first matrix: 2 F where gated, else F.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Layout:
    """The weights of a stack of experts, and what stands between and behind its two matrices.

    Attributes:
        up: [E, U, D], or [E, D, U] where ``transposed``.
        down: [E, D, F], or [E, F, D] where ``transposed``.
        up_bias: [E, U].
        down_bias: [E, D].
        activation: from [N, U] to [N, F]: the gate, or the activation alone.
        norm: applied to what an expert returns, in front of the combine weight.
        dtype: what it computes in: the dtype of autocast where that is on, else of the weights.
        alone: whether it has no parameters but these, none in its activation.
    """

    num_experts: int
    transposed: bool
    up: Tensor
    down: Tensor
    up_bias: Tensor | None
    down_bias: Tensor | None
    activation: Activation
    norm: Activation | None
    dtype: torch.dtype
    alone: bool

    @staticmethod
    def of(module: Any) -> "Layout":
        """Of a module that the library's ``use_experts_implementation`` marks."""
        name = "gate_up_proj" if module.has_gate else "up_proj"
        up = getattr(module, name)
        device = up.device.type
        own = {name, "down_proj", f"{name}_bias", "down_proj_bias"}
        autocast = torch.is_autocast_enabled(device)
        return Layout(
            num_experts=module.num_experts,
            transposed=module.is_transposed,
            up=up,
            down=module.down_proj,
            up_bias=getattr(module, f"{name}_bias") if module.has_bias else None,
            down_bias=module.down_proj_bias if module.has_bias else None,
            activation=module._apply_gate if module.has_gate else module.act_fn,
            norm=module.post_expert_norm if module.has_post_expert_norm else None,
            dtype=torch.get_autocast_dtype(device) if autocast else up.dtype,
            alone=all(each in own for each, _ in module.named_parameters()),
        )
