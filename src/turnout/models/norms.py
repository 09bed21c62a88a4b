"""The norms of a stack, resolved when it is built."""

from turnout.models.shape import StackShape
from turnout.nn.norms import LayerNorm, Norm, RMSNorm


def norm(shape: StackShape) -> Norm:
    """A norm over the stack's width, its weights not yet filled."""
    if shape.norm == "layer":
        return LayerNorm(shape.d_model, shape.epsilon)
    return RMSNorm(shape.d_model, shape.epsilon)
