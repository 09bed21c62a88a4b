"""Where a model of the library has its sparse blocks."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from turnout.config.errors import UserError

# Set by the library on every module that its ``use_experts_implementation`` marks.
MARKS = frozenset({"has_gate", "has_bias", "is_transposed"})
# Routers of models whose experts are not stacked, and the block's attribute that holds them.
ROUTERS = {"SwitchTransformersTop1Router": "router"}


@dataclass(frozen=True)
class SparseBlock:
    """A module that routes tokens to experts.

    Attributes:
        name: its path in the model, such as ``model.layers.3.mlp``.
        module: what maps states [B, S, D] to states.
        watched: what a hook sees the routing at: its stacked experts, or its router.
        kind: the class of ``watched`` where that is a router, else ``experts``.
    """

    name: str
    module: nn.Module
    watched: nn.Module
    kind: str


def sparse_blocks(model: nn.Module) -> list[SparseBlock]:
    """The sparse blocks of a model, in its order.

    Raises:
        UserError: it has none.
    """
    found = list(_find(model))
    if not found:
        raise UserError(
            f"{type(model).__name__}: has no sparse block that is known here: experts stacked in "
            f"one parameter, or a router of the class {' or '.join(ROUTERS)}"
        )
    return found


def _find(model: nn.Module) -> Iterator[SparseBlock]:
    modules = dict(model.named_modules())
    for path, module in modules.items():
        kind = type(module).__name__
        if vars(module).keys() >= MARKS:
            kind = "experts"
        elif kind not in ROUTERS:
            continue
        block = path.rpartition(".")[0]
        yield SparseBlock(block, modules[block], module, kind)


def width(model: nn.Module) -> int:
    """D of a model of the library."""
    config = model.config.get_text_config()  # type: ignore[union-attr, operator]
    return int(config.hidden_size)
