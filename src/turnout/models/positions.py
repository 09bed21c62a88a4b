"""What a stack does about positions: a bias table, or a rotation, by the configured kind."""

from functools import singledispatch

from jaxtyping import Int
from torch import Tensor

from turnout.config.errors import UserError
from turnout.config.positions import Positions, RelativeBias, Rotary
from turnout.models.shape import StackShape
from turnout.nn.positions import RelativePositionBias, Rotation


@singledispatch
def position_bias(
    positions: Positions, shape: StackShape, *, per_layer: bool
) -> RelativePositionBias | None:
    """The table of a layer (``per_layer``) or of a stack, where the positions ask for one."""
    raise UserError(f"model.positions = {positions!r}: no such positions")


@position_bias.register
def _(
    positions: RelativeBias, shape: StackShape, *, per_layer: bool
) -> RelativePositionBias | None:
    if positions.per_layer != per_layer:
        return None
    heads = shape.attention.num_heads
    return RelativePositionBias(positions, heads, bidirectional=not shape.causal)


@position_bias.register
def _(positions: Rotary, shape: StackShape, *, per_layer: bool) -> RelativePositionBias | None:
    return None


@singledispatch
def rotation(positions: Positions, position: Int[Tensor, "B S"], head_dim: int) -> Rotation | None:
    """The angles of tokens at ``position``, where queries and keys are rotated."""
    raise UserError(f"model.positions = {positions!r}: no such positions")


@rotation.register
def _(positions: RelativeBias, position: Int[Tensor, "B S"], head_dim: int) -> Rotation | None:
    return None


@rotation.register
def _(positions: Rotary, position: Int[Tensor, "B S"], head_dim: int) -> Rotation | None:
    return Rotation.of(positions, position, head_dim)
