"""A sparse layer as a part of a block."""

from turnout.config.moe import MoEConfig
from turnout.models.contexts import grouping
from turnout.models.shape import StackShape
from turnout.moe.build import build_layer
from turnout.moe.experts import ExpertStack
from turnout.moe.layer import MoELayer

# The noise of the sparse layers of one block must differ: each part has numbers of its own.
PART_NUMBERS = {"moe": 0, "attention.query": 1 << 16, "attention.key_value": 2 << 16}


def sparse_layer(
    shape: StackShape, moe: MoEConfig, layer: int, part: str, experts: ExpertStack | None = None
) -> MoELayer:
    """The sparse layer that is ``part`` of block ``layer``, its weights not yet drawn.

    ``experts`` are feed-forward networks unless others are given.
    """
    return build_layer(
        moe,
        d_model=shape.d_model,
        feed_forward=shape.feed_forward,
        name=f"{shape.name}.{layer}.{part}",
        stack=shape.name,
        index=PART_NUMBERS[part] + shape.first_index + layer,
        group_tokens=grouping(moe.group).tokens(shape.length),
        vocab_size=shape.vocab_size,
        decoder=shape.causal,
        initialise=False,
        experts=experts,
    )
