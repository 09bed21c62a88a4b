"""What a stack does about positions, by the configured kind: a bias table, a rotation, or vectors
added to the embeddings.

Resolved when a model is built: a dispatch inside a compiled forward pass would compile it twice.
"""

from functools import singledispatch

from turnout.config.errors import UserError
from turnout.config.positions import Positions, RelativeBias, Rotary, Sinusoidal
from turnout.models.shape import StackShape
from turnout.nn.positions import RelativePositionBias, RotaryAngles, Sinusoids
from turnout.nn.rotary_scaling import rotary_scaling


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
def _(
    positions: Rotary | Sinusoidal, shape: StackShape, *, per_layer: bool
) -> RelativePositionBias | None:
    return None


@singledispatch
def rotary(positions: Positions, head_dim: int) -> RotaryAngles | None:
    """The angles of queries and keys, where ``head_dim`` of a head may be rotated."""
    raise UserError(f"model.positions = {positions!r}: no such positions")


@rotary.register
def _(positions: RelativeBias | Sinusoidal, head_dim: int) -> RotaryAngles | None:
    return None


@rotary.register
def _(positions: Rotary, head_dim: int) -> RotaryAngles | None:
    width, scaling = positions.rotated(head_dim), rotary_scaling(positions.scaling)
    return RotaryAngles(positions.theta, width, scaling, positions.interleaved)


@singledispatch
def logit_scale(positions: Positions) -> float:
    """What the positions multiply the logits of latent attention by."""
    raise UserError(f"model.positions = {positions!r}: no such positions")


@logit_scale.register
def _(positions: Rotary) -> float:
    return positions.logit_scale


@singledispatch
def sinusoids(positions: Positions, d_model: int) -> Sinusoids | None:
    """What is added to the embeddings, where the positions ask for it."""
    raise UserError(f"model.positions = {positions!r}: no such positions")


@sinusoids.register
def _(positions: RelativeBias | Rotary, d_model: int) -> Sinusoids | None:
    return None


@sinusoids.register
def _(positions: Sinusoidal, d_model: int) -> Sinusoids | None:
    return Sinusoids(d_model, positions.offset, positions.theta)
