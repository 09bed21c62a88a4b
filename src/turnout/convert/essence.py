"""Which function a configured model computes, whatever it is trained with and however fast."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from turnout.config import io
from turnout.config.model import ModelConfig

# Of training, or of speed; and what a row may hold, which the weights do not depend on.
WITHOUT_EFFECT = (
    *("dropout", "length", "encoder_length", "decoder_length", "initialisation."),
    *("moe.train_capacity_factor", "moe.capacity_rounding", "moe.min_capacity", "moe.priority"),
    *("moe.dispatcher", "moe.product", "moe.init_scale", "moe.expert_dropout", "moe.group."),
    *("moe.weights_after_drops", "moe.allow_future_routing", "moe.router.exploration."),
    "moe.router.bias_rate",
)
SAME_WEIGHTS = {"softmax_of_selected": "renormalised"}  # p over a sum of p is that softmax


def essence(config: ModelConfig) -> dict[str, Any]:
    """Dotted fields and values that a logit may depend on, in evaluation."""
    moe = config.moe
    if moe is not None:
        beside = None if moe.decoder_router == moe.router else moe.decoder_router
        expert = moe.expert_ffn(config.feed_forward)
        config = replace(config, moe=replace(moe, expert=expert, decoder_router=beside))
        if all(len(stack.sparse_layers) == stack.num_layers for stack in config.stacks()):
            config = replace(config, feed_forward=expert)  # there is no dense network
    found = {
        name: value
        for name, value in io.flat(io.to_dict(config))
        if not name.startswith(WITHOUT_EFFECT)
    }
    if found.get("attention.window") is not None:
        found["attention.window_pattern"] = shortest(found["attention.window_pattern"])
    weights = found.get("moe.router.weights")
    if weights in SAME_WEIGHTS:
        found["moe.router.weights"] = SAME_WEIGHTS[weights]
    return found


def shortest(pattern: Sequence[bool]) -> tuple[bool, ...]:
    """The shortest beginning of a pattern that repeats to make it, the last time in part or not."""
    size = next(
        size
        for size in range(1, len(pattern) + 1)
        if all(pattern[i] == pattern[i % size] for i in range(len(pattern)))
    )
    return tuple(pattern[:size])


def differences(wanted: ModelConfig, found: ModelConfig) -> list[str]:
    """Fields of ``wanted`` that the other model lacks or has otherwise, as ``field = value``."""
    ours, theirs = essence(wanted), essence(found)
    return [
        f"model.{name} = {ours.get(name)!r}"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]
