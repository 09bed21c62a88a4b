"""Which function a configured model computes, whatever it is trained with and however fast."""

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
    weights = found.get("moe.router.weights")
    if weights in SAME_WEIGHTS:
        found["moe.router.weights"] = SAME_WEIGHTS[weights]
    return found


def differences(wanted: ModelConfig, found: ModelConfig) -> list[str]:
    """Fields of ``wanted`` that the other model lacks or has otherwise, as ``field = value``."""
    ours, theirs = essence(wanted), essence(found)
    return [
        f"model.{name} = {ours.get(name)!r}"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]
