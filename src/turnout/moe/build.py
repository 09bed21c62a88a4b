"""Builds a sparse layer from its configuration."""

from turnout.config.errors import ConfigError
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.moe import MoEConfig
from turnout.moe.dispatch import build_dispatcher
from turnout.moe.experts import Experts, ExpertStack
from turnout.moe.layer import CapacityRule, MoELayer
from turnout.moe.masking import OutputMasking
from turnout.moe.priority import build_priority
from turnout.moe.routers import RouterShape, build_router
from turnout.moe.shared import GatedShared, SharedExperts
from turnout.nn.feed_forward import FeedForward


def build_layer(
    config: MoEConfig,
    *,
    d_model: int,
    feed_forward: FeedForwardConfig,
    name: str = "moe",
    stack: str = "decoder",
    index: int = 0,
    group_tokens: int | None = None,
    vocab_size: int | None = None,
    decoder: bool = False,
    initialise: bool = True,
    experts: ExpertStack | None = None,
) -> MoELayer:
    """A sparse layer of width ``d_model``, with its initial weights.

    Args:
        feed_forward: the stack's dense network; the experts' shape unless the configuration
            names another.
        index: number of the layer in the model, unique; it salts the layer's noise.
        group_tokens: configured tokens of a routing group; capacity follows from it.
        vocab_size: entries of the vocabulary, for routers that read token ids.
        decoder: refuse routing that lets a token depend on later ones.
        initialise: draw the initial weights from torch's generator; without, they are empty
            until ``init_weights``.
        experts: what to take for experts; feed-forward networks unless given.

    Raises:
        ConfigError: a capacity factor without ``group_tokens``; a decoder with routing that is
            not causal, unless ``moe.allow_future_routing``.
    """
    scale = 1.0 if config.init_scale is None else config.init_scale
    shape = RouterShape(
        d_model=d_model,
        num_experts=config.num_experts,
        layer=index,
        init_scale=scale,
        slots=None if group_tokens is None else config.expert_capacity(1.0, group_tokens),
        vocab_size=vocab_size,
    )
    layer = MoELayer(
        build_router(config.router, shape),
        _networks(config, d_model, feed_forward, scale) if experts is None else experts,
        build_dispatcher(config.dispatcher),
        priority=build_priority(config.priority, index),
        capacity=_capacity_rule(config, group_tokens),
        shared=_shared(config, d_model, feed_forward),
        masking=OutputMasking(config.output_masking, index) if config.output_masking else None,
        name=name,
        stack=stack,
    )
    if decoder:
        _refuse_future_routing(layer, config)
    if initialise:
        layer.init_weights()
    return layer


def _networks(
    config: MoEConfig, d_model: int, feed_forward: FeedForwardConfig, scale: float
) -> Experts:
    return Experts(
        config.num_experts,
        d_model,
        config.expert_ffn(feed_forward),
        dropout=config.expert_dropout,
        init_scale=scale,
        product=config.product,
    )


def _shared(
    config: MoEConfig, d_model: int, feed_forward: FeedForwardConfig
) -> SharedExperts | None:
    shared = config.shared_ffn(feed_forward)
    if shared is None:
        return None
    network = GatedShared if config.shared_gate else FeedForward
    return network(d_model, shared, config.expert_dropout)


def _refuse_future_routing(layer: MoELayer, config: MoEConfig) -> None:
    if layer.causal or config.allow_future_routing:
        return
    allow = "allow the leak in so many words with moe.allow_future_routing = true"
    if layer.router.couples == "group" or layer.router.couples_in_evaluation == "group":
        raise ConfigError(
            "moe.router.kind",
            config.router.kind,
            "a router whose choice for a token does not depend on later ones, in a decoder",
            f"take it in an encoder, with another moe.decoder_router, or {allow}",
        )
    raise ConfigError(
        "moe.priority",
        config.priority,
        "'token' in a decoder with a capacity, or tokens are dropped because of later ones",
        f"set moe.priority = 'token', drop the capacity factors, or {allow}",
    )


def _capacity_rule(config: MoEConfig, group_tokens: int | None) -> CapacityRule:
    factors = (config.train_capacity_factor, config.eval_capacity_factor)
    if group_tokens is None and any(factor is not None for factor in factors):
        raise ConfigError(
            "group_tokens",
            None,
            "the configured tokens of a routing group, since a capacity factor is set",
            "give group_tokens, or set both capacity factors to none",
        )
    if group_tokens is not None and group_tokens < 1:
        raise ConfigError("group_tokens", group_tokens, "at least 1")
    train, evaluation = (config.expert_capacity(factor, group_tokens or 0) for factor in factors)
    return CapacityRule(
        train=train,
        evaluation=evaluation,
        within_row=config.group.within_row,
        weights_after_drops=config.weights_after_drops,
        a_pass=config.eval_slots,
    )
