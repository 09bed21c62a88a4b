"""The weights of a sparse block under the library's names and under ours.

Theirs are [E, 2 F, D], the gate first, and [E, D, F]; ours [E, D, F] twice and [E, F, D].
Axes: E experts, D width, F hidden width.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

# Ours by theirs, where the tensor is the same.
SAME = {
    "gate.weight": "router.weight",
    "gate.e_score_correction_bias": "router.balancer.bias",
    "shared_experts.gate_proj.weight": "shared.w_gate",
    "shared_experts.up_proj.weight": "shared.w_in",
    "shared_experts.down_proj.weight": "shared.w_out",
}
# Every parameter of theirs and ours that hold the same numbers.
PAIRS = (
    *SAME.items(),
    ("experts.gate_up_proj", "experts.w_gate"),
    ("experts.gate_up_proj", "experts.w_in"),
    ("experts.down_proj", "experts.w_out"),
)


def ours(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a MoELayer from that of a block of theirs; experts are copied."""
    gate, up = theirs["experts.gate_up_proj"].chunk(2, dim=1)
    experts = {"w_gate": gate, "w_in": up, "w_out": theirs["experts.down_proj"]}
    same = {SAME[name]: tensor for name, tensor in theirs.items() if name in SAME}
    return same | {f"experts.{name}": _turned(matrix) for name, matrix in experts.items()}


def theirs(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a block of theirs from that of a MoELayer; experts are copied."""
    both = torch.cat([ours["experts.w_gate"], ours["experts.w_in"]], dim=2)
    same = {name: ours[other] for name, other in SAME.items() if other in ours}
    return same | {
        "experts.gate_up_proj": _turned(both),
        "experts.down_proj": _turned(ours["experts.w_out"]),
    }


def freeze_alike(theirs: nn.Module, ours: nn.Module, *, from_theirs: bool) -> None:
    """Freezes the parameters of one module whose counterparts in the other are frozen."""
    known, other = dict(theirs.named_parameters()), dict(ours.named_parameters())
    for name, twin in PAIRS:
        if name in known:
            source, target = known[name], other[twin]
            source, target = (source, target) if from_theirs else (target, source)
            target.requires_grad_(source.requires_grad)


def _turned(matrices: Tensor) -> Tensor:
    return matrices.detach().transpose(1, 2).contiguous()
