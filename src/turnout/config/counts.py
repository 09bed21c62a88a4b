"""What a model holds, from the configuration alone; ``flops`` has what a forward pass costs.

The module tree that is counted: an embedding [V, D]; a head [V, D] unless tied; a layer is
norm + self-attention, in the decoder of two stacks norm + cross-attention, norm + feed-forward
(dense, or sparse with its router, shared experts and extra dense network); a final norm a stack.
Norms hold one weight [D], and a bias [D] where the configuration says ``layer``; no projection has
a bias unless its configuration says so.
"""

from dataclasses import dataclass, fields
from typing import Protocol, runtime_checkable

from turnout.config.attention import Attention
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.moe import MoEConfig
from turnout.config.positions import Positions


@dataclass(frozen=True)
class Components:
    """Parameters by component."""

    embedding: int = 0
    head: int = 0
    attention: int = 0
    norms: int = 0
    feed_forward: int = 0
    experts: int = 0
    shared_experts: int = 0
    router: int = 0
    extra_ffn: int = 0
    positions: int = 0

    @property
    def total(self) -> int:
        return sum(self.as_dict().values())

    def as_dict(self) -> dict[str, int]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def __add__(self, other: "Components") -> "Components":
        left, right = self.as_dict(), other.as_dict()
        return Components(**{name: left[name] + right[name] for name in left})


@dataclass(frozen=True)
class ParamCount:
    """All parameters, and those a token passes: ``router.active`` of E experts, the rest once."""

    components: Components
    active_components: Components

    @property
    def total(self) -> int:
        return self.components.total

    @property
    def active(self) -> int:
        return self.active_components.total


@dataclass(frozen=True)
class Stack:
    """One stack of layers; ``cross`` adds attention to the encoder's output."""

    name: str
    num_layers: int
    d_model: int
    attention: Attention
    feed_forward: FeedForwardConfig
    moe: MoEConfig | None
    positions: Positions
    cross: bool = False
    biased_norms: bool = False

    @property
    def norm_params(self) -> int:
        """Parameters of one norm."""
        return self.d_model * (2 if self.biased_norms else 1)

    @property
    def sparse_layers(self) -> tuple[int, ...]:
        """Indices of the layers whose feed-forward network is sparse."""
        return () if self.moe is None else self.moe.placement.sparse_layers(self.num_layers)

    @property
    def sparse(self) -> tuple[MoEConfig, ...]:
        """The configuration of each sparse layer."""
        return () if self.moe is None else self.moe.of_layers(len(self.sparse_layers))


@runtime_checkable
class Shape(Protocol):
    """What the counts need of a model's configuration."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def d_model(self) -> int: ...

    @property
    def tied(self) -> bool: ...

    def stacks(self) -> tuple[Stack, ...]: ...


def encoder_decoder_params(config: Shape) -> ParamCount:
    """Parameters of an encoder and a decoder around one embedding."""
    return _params(config)


def decoder_only_params(config: Shape) -> ParamCount:
    """Parameters of one causal stack."""
    return _params(config)


def _params(config: Shape) -> ParamCount:
    table = config.vocab_size * config.d_model
    total = Components(embedding=table, head=0 if config.tied else table)
    active = total
    for stack in config.stacks():
        shared = _backbone(stack)
        total = total + shared + _sparse(stack, active=False)
        active = active + shared + _sparse(stack, active=True)
    return ParamCount(total, active)


def _backbone(stack: Stack) -> Components:
    """Everything but experts and what stands beside them."""
    attentions = stack.num_layers * (2 if stack.cross else 1)
    projecting = sum(moe.in_attention for moe in stack.sparse)
    dense = stack.num_layers - sum(moe.in_feed_forward for moe in stack.sparse)
    return Components(
        attention=(attentions - projecting) * stack.attention.num_params(stack.d_model)
        + projecting * stack.attention.num_shared_params(stack.d_model),
        norms=(attentions + stack.num_layers + 1) * stack.norm_params,
        feed_forward=dense * stack.feed_forward.num_params(stack.d_model),
        positions=stack.positions.num_params(stack.num_layers, stack.attention.num_heads),
    )


def _sparse(stack: Stack, active: bool) -> Components:
    """The sparse layers' parts: all experts, or those that compute one token."""
    found = Components()
    for moe in stack.sparse:
        if moe.in_feed_forward:
            found += _sparse_networks(stack, moe, active)
        if moe.in_attention:
            found += _sparse_projections(stack, moe, active)
    return found


def _sparse_networks(stack: Stack, moe: MoEConfig, active: bool) -> Components:
    width = stack.d_model
    shared = moe.shared_ffn(stack.feed_forward)
    extra = stack.feed_forward.num_params(width) + stack.norm_params
    return Components(
        experts=_counted(moe, active) * moe.expert_ffn(stack.feed_forward).num_params(width),
        shared_experts=0 if shared is None else shared.num_params(width) + moe.shared_gate * width,
        router=moe.router.num_params(width, moe.num_experts),
        extra_ffn=extra if moe.extra_ffn else 0,
    )


def _sparse_projections(stack: Stack, moe: MoEConfig, active: bool) -> Components:
    width = stack.d_model
    return Components(
        experts=_counted(moe, active) * stack.attention.num_expert_params(width),
        router=2 * moe.router.num_params(width, moe.num_experts),
    )


def _counted(moe: MoEConfig, active: bool) -> int:
    return moe.router.active if active else moe.num_experts
