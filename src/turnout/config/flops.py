"""What a forward pass costs, by part, from the configuration alone.

A multiply-add is two operations; nothing is dropped, and what a mask leaves out is multiplied all
the same.
"""

from dataclasses import dataclass, fields

from turnout.config.counts import Shape, Stack
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.moe import MoEConfig
from turnout.config.routers.base import router_flops


@dataclass(frozen=True)
class Flops:
    """Operations of a forward pass by part.

    ``projections`` and ``scores`` are attention's dense matrices, and the products of queries
    with keys and of weights with values. ``experts`` are those in attention too.
    """

    projections: int = 0
    scores: int = 0
    feed_forward: int = 0
    experts: int = 0
    shared_experts: int = 0
    router: int = 0
    extra_ffn: int = 0
    head: int = 0

    @property
    def total(self) -> int:
        return sum(self.as_dict().values())

    def as_dict(self) -> dict[str, int]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def __add__(self, other: "Flops") -> "Flops":
        left, right = self.as_dict(), other.as_dict()
        return Flops(**{name: left[name] + right[name] for name in left})


def encoder_decoder_flops(
    config: Shape, batch: int, encoder_length: int, decoder_length: int
) -> Flops:
    """One forward pass over rows of these lengths, every position real."""
    encoder, decoder = config.stacks()
    return (
        stack_flops(encoder, batch, encoder_length)
        + stack_flops(decoder, batch, decoder_length)
        + cross_flops(decoder, batch, decoder_length, encoder_length)
        + head_flops(config, batch * decoder_length)
    )


def decoder_only_flops(config: Shape, batch: int, length: int) -> Flops:
    """One forward pass over rows of this length, every position real."""
    (decoder,) = config.stacks()
    return stack_flops(decoder, batch, length) + head_flops(config, batch * length)


def stack_flops(stack: Stack, batch: int, length: int) -> Flops:
    """All layers of a stack, without its attention to another."""
    tokens, width = batch * length, stack.d_model
    dense = stack.num_layers - sum(moe.in_feed_forward for moe in stack.sparse)
    found = Flops(
        projections=stack.num_layers * stack.attention.projection_flops(width, tokens, tokens),
        scores=stack.num_layers * batch * stack.attention.score_flops(length, length),
        feed_forward=dense * _network(stack.feed_forward, tokens, width),
    )
    for moe in stack.sparse:
        if moe.in_feed_forward:
            found += _sparse_networks(stack, moe, tokens)
        if moe.in_attention:
            found += _sparse_projections(stack, moe, tokens)
    return found


def cross_flops(stack: Stack, batch: int, length: int, memory: int) -> Flops:
    """Attention of a decoder's layers to ``memory`` states of the encoder."""
    layers, attention = stack.num_layers, stack.attention
    queries, keys = batch * length, batch * memory
    return Flops(
        projections=layers * attention.projection_flops(stack.d_model, queries, keys),
        scores=layers * batch * attention.score_flops(length, memory),
    )


def head_flops(config: Shape, tokens: int) -> Flops:
    """The logits of every token."""
    return Flops(head=2 * tokens * config.d_model * config.vocab_size)


def _network(network: FeedForwardConfig, rows: int, d_model: int) -> int:
    return 2 * rows * network.num_matrices * d_model * network.d_ff


def _sparse_networks(stack: Stack, moe: MoEConfig, tokens: int) -> Flops:
    """Router, experts over T * k rows, shared experts and the extra network of one layer."""
    width = stack.d_model
    expert = moe.expert_ffn(stack.feed_forward)
    shared = moe.shared_ffn(stack.feed_forward)
    gated = moe.shared_gate * 2 * tokens * width
    return Flops(
        experts=_network(expert, tokens * moe.router.active, width),
        shared_experts=0 if shared is None else _network(shared, tokens, width) + gated,
        router=tokens * router_flops(moe.router, width, moe.num_experts),
        extra_ffn=_network(stack.feed_forward, tokens, width) if moe.extra_ffn else 0,
    )


def _sparse_projections(stack: Stack, moe: MoEConfig, tokens: int) -> Flops:
    """Experts in attention: two routers and their projections, in place of the dense ones."""
    experts = moe.router.active * stack.attention.num_expert_params(stack.d_model)
    dense = stack.attention.num_replaced_params(stack.d_model)
    return Flops(
        projections=-2 * tokens * dense,
        experts=2 * tokens * experts,
        router=2 * tokens * router_flops(moe.router, stack.d_model, moe.num_experts),
    )
