"""Operators for passes over few tokens, as in generation, by ``operators.cpp``.

A step of generation reads every weight to multiply it with a few rows: what it can be is as fast as
memory, and a call from Python takes as long as a small product. So these are operators of PyTorch's
in C++: products with matrices packed for good, and attention of one query
(docs/results/generation.md). None has gradients.

Axes: N rows, E experts, D inner width, P the same filled up, F outer width, B batch, H heads,
G heads of keys, K keys, d width of a key, e of a value.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final, cast, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from turnout.kernels.compiler import Source
from turnout.kernels.library import HERE, Kernels

LIBRARY: Final = torch.library.Library("turnout", "FRAGMENT")  # type: ignore[no-untyped-call]


@final
class FewRowKernels(Kernels):
    """The operators; of a process there is one, ``FEW_ROWS``."""

    def __init__(self, capability: str, flags: frozenset[str]) -> None:
        self._is_loaded = False
        path = Path(__file__).with_name("operators.cpp")
        super().__init__(Source(path, torch=True), capability, flags)

    @property
    def loaded(self) -> bool:
        return self._is_loaded

    def pack(self, weight: Float[Tensor, "*E F D"]) -> Float[Tensor, "*E F P"]:
        """Matrices as ``packed_linear`` and ``panel_product`` read them, in a layout that only
        they understand: behind what the shape says F is filled up to whole panels, and D is even
        in bfloat16. They refuse a copy of the result that lacks what is behind."""
        self.load()
        stack = weight if weight.dim() == 3 else weight.unsqueeze(0)
        found = cast(Tensor, torch.ops.turnout.pack_panels(stack))
        return found if weight.dim() == 3 else found[0]

    def _open(self, built: Path) -> None:
        torch.ops.load_library(str(built))  # type: ignore[no-untyped-call]
        self._is_loaded = True


def packed_linear(x: Float[Tensor, "*N D"], weight: Float[Tensor, "F P"]) -> Float[Tensor, "*N F"]:
    """``x @ weight^T`` of a packed matrix, in the dtype of both."""
    return cast(Tensor, torch.ops.turnout.packed_linear(x, weight))


def panel_product(
    rows: Float[Tensor, "N D"], weight: Float[Tensor, "E F P"], offsets: Int[Tensor, " E"]
) -> Float[Tensor, "N F"]:
    """``rows[n] @ weight[e]^T`` of packed matrices, rows sorted by expert and ``offsets`` (int32)
    the ends of theirs; rows past the last offset give zero."""
    return cast(Tensor, torch.ops.turnout.panel_product(rows, offsets, weight))


def one_query(
    queries: Float[Tensor, "B H 1 d"],
    keys: Float[Tensor, "B G K d"],
    values: Float[Tensor, "B G K e"],
    bias: Float[Tensor, "#B #H 1 K"] | None,
    allowed: Bool[Tensor, "#B #H 1 K"] | None,
    scale: float,
) -> Float[Tensor, "B H 1 e"]:
    """``softmax(scale * query keys^T + bias) values`` over the keys that are ``allowed``, over all
    alike where none is; the softmax is float32, and so is the bias."""
    operator = torch.ops.turnout.one_query
    return cast(Tensor, operator(queries, keys, values, bias, allowed, scale))


def _define(schema: str, shape: Callable[..., Tensor]) -> None:
    # ``torch.library.custom_op`` would cost eight microseconds a call.
    LIBRARY.define(schema)  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"turnout::{schema.split('(')[0]}", shape, lib=LIBRARY)


_define("pack_panels(Tensor weight) -> Tensor", torch.empty_like)
_define(
    "packed_linear(Tensor x, Tensor weight) -> Tensor",
    lambda x, weight: x.new_empty(*x.shape[:-1], weight.shape[0]),
)
_define(
    "panel_product(Tensor rows, Tensor offsets, Tensor weight) -> Tensor",
    lambda rows, offsets, weight: rows.new_empty(rows.shape[0], weight.shape[1]),
)
_define(
    "one_query(Tensor queries, Tensor keys, Tensor values, Tensor? bias, Tensor? allowed, "
    "float scale) -> Tensor",
    lambda queries, keys, values, bias, allowed, scale: queries.new_empty(
        *queries.shape[:3], values.shape[3]
    ),
)
FEW_ROWS: Final = FewRowKernels(*HERE)
"""Of this process."""
