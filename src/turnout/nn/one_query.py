"""Attention of one query a row, as in a step of generation, by the kernels in C++.

PyTorch's kernel is made for many queries: on a CPU one costs it as much as a block of them
(docs/results/generation.md). Axes: B batch, H heads, G heads of keys, K keys, d width of a key, e
of a value.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from turnout.kernels import operators
from turnout.kernels.operators import FEW_ROWS
from turnout.nn.biased import Biased, Mask


def computes(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether there are kernels for keys of this dtype, and they are taken."""
    return device.type == "cpu" and dtype in FEW_ROWS.preferred


def takes(queries: Float[Tensor, "B H Q d"], dropout: float) -> bool:
    """Whether ``attention`` computes this: it has no gradients and no dropout."""
    here = computes(queries.dtype, queries.device)
    return here and queries.shape[2] == 1 and dropout == 0 and not torch.is_grad_enabled()


def attention(
    queries: Float[Tensor, "B H 1 d"],
    keys: Float[Tensor, "B G K d"],
    values: Float[Tensor, "B G K e"],
    mask: Mask,
    scale: float,
) -> Float[Tensor, "B H 1 e"]:
    """``softmax(scale * query keys^T + bias) values``; the softmax is float32."""
    bias = allowed = None
    if isinstance(mask, Biased):
        bias, allowed = mask.bias.float(), mask.allowed
    elif mask.dtype == torch.bool:
        allowed = mask
    else:
        bias = mask.float()
    return operators.one_query(queries, _by_entry(keys), _by_entry(values), bias, allowed, scale)


def _by_entry(x: Float[Tensor, "B G K d"]) -> Float[Tensor, "B G K d"]:
    """With the entries of a key side by side."""
    return x if x.stride(-1) == 1 else x.contiguous()
