"""Models of transformers that do not compute what their own routers say, mended for a comparison.

Axes: T tokens, D width, E experts.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

MENDED = (
    "its NLLB-MoE takes the mask of chosen experts for their numbers and uses experts 0 and 1 "
    "alone; compared is the model that its routers mean"
)


def mended(model: Any) -> str:
    """Makes the experts of a model go by its router; what was wrong, for people, or nothing.

    Known is NLLB-MoE of transformers 5: ``NllbMoeExperts`` wants the numbers of a token's experts
    and their weights [T, 2], and is given masks [T, E].
    """
    wrong = [module for module in model.modules() if type(module).__name__ == "NllbMoeExperts"]
    for module in wrong:
        module.register_forward_pre_hook(_numbered)
    return MENDED if wrong else ""


def _numbered(
    module: torch.nn.Module,
    inputs: tuple[Float[Tensor, "T D"], Int[Tensor, "T E"], Float[Tensor, "T E"]],
) -> tuple[Tensor, ...]:
    rows, chosen, weights = inputs
    if chosen.shape[1] != module.num_experts or chosen.shape != weights.shape:
        return inputs  # numbers already
    best = weights.topk(2, dim=1)
    return rows, best.indices, best.values
