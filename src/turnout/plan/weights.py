"""The weights of a model as the tensors it holds, and what a rank of a layout has of each.

A layer's weights are one unit of sharding: they are gathered together, in the dtype of the
computation. Layers that are alike are one unit that comes several times. What is float32 whatever
the dtype is gathered together for all layers. Axes: E experts, D width, F hidden width,
V vocabulary, H heads.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, singledispatch
from math import prod
from typing import Literal

from turnout.config.attention import Attention, AttentionConfig
from turnout.config.counts import Stack
from turnout.config.errors import UserError
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.latent_attention import LatentAttention
from turnout.config.model import ModelConfig
from turnout.config.moe import MoEConfig
from turnout.config.parallel import ParallelPlan
from turnout.config.positions import RelativeBias

Role = Literal["dense", "wide", "experts"]
ROOT = "root"  # what stands around the layers


@dataclass(frozen=True)
class Weight:
    """One tensor. A ``wide`` one is computed with in float32 whatever the dtype, as norms, routers
    and tables that are looked up. ``split`` is the dimension that the ranks of a tensor axis share
    out; ``partial`` says of what they see a part, where each has the weight whole but not the
    gradient: of the heads, or in sequence parallel of the tokens."""

    name: str
    shape: tuple[int, ...]
    role: Role = "dense"
    split: int | None = None
    partial: Literal["", "heads", "tokens"] = ""

    @property
    def size(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class Unit:
    """Weights of ``repeat`` layers, or what stands around them. They are gathered together, but for
    those that are wide, which all are together; those of experts over other ranks."""

    name: str
    weights: tuple[Weight, ...]
    repeat: int = 1

    @property
    def experts(self) -> bool:
        return self.weights[0].role == "experts"

    @property
    def wide(self) -> bool:
        return self.weights[0].role == "wide"

    @property
    def size(self) -> int:
        """Parameters of one of the layers."""
        return sum(weight.size for weight in self.weights)


@dataclass(frozen=True)
class Held:
    """A weight as a rank holds it: ``local`` is what its tensor and expert ranks leave of the
    shape, ``rows`` of whose dimension ``dim`` the first rank keeps."""

    weight: Weight
    local: tuple[int, ...]
    dim: int
    shards: int

    @cached_property
    def whole(self) -> int:
        """Entries once gathered, with what pads the last shards."""
        return self.kept * self.shards

    @cached_property
    def kept(self) -> int:
        """Entries of the first shard, the largest; all ranks allot as much."""
        return prod(self.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first shard."""
        rows = -(-self.local[self.dim] // self.shards)
        return (*self.local[: self.dim], rows, *self.local[self.dim + 1 :])

    def rows_of(self, shard: int) -> int:
        """Rows of dimension ``dim`` that a shard really has: the last ones may have fewer."""
        rows = -(-self.local[self.dim] // self.shards)
        return max(0, min(rows, self.local[self.dim] - shard * rows))


@dataclass(frozen=True)
class Gathered:
    """What one rank holds of a unit; ``ranks`` hold it or a part of it, this one among them."""

    unit: Unit
    parts: tuple[Held, ...]
    ranks: int

    @property
    def apart(self) -> bool:
        """Whether these are experts, gathered over ranks of their own."""
        return self.unit.experts

    @property
    def whole(self) -> int:
        """Entries once gathered, with what pads the shards."""
        return sum(part.whole for part in self.parts)

    @property
    def kept(self) -> int:
        """Entries of this rank's shards."""
        return sum(part.kept for part in self.parts)

    @property
    def matrices(self) -> int:
        """Entries of the matrices, without what pads the shards."""
        return sum(prod(part.local) for part in self.parts if len(part.local) > 1)


def held(weight: Weight, plan: ParallelPlan) -> Held:
    """What one rank has of a weight: FSDP shards the first dimension. Experts that an axis shares
    out are sharded by experts where that comes out even, else along the next dimension that does.
    """
    local = list(weight.shape)
    if weight.split is not None:
        local[weight.split] //= plan.tensor
    if weight.role != "experts" or plan.expert == 1:
        return Held(weight, tuple(local), 0, plan.dense_shards)
    local[0] //= plan.expert
    even = (dim for dim, size in enumerate(local) if size % plan.expert_fsdp == 0)
    return Held(weight, tuple(local), next(even, 0), plan.expert_fsdp)


@dataclass(frozen=True)
class Sharding:
    """All weights as one rank holds them, and the sums that plans ask for. Entries, not bytes."""

    gathered: tuple[Gathered, ...]

    @cached_property
    def parts(self) -> tuple[tuple[Held, int], ...]:
        """Every weight, and in how many layers it is."""
        return tuple((part, each.unit.repeat) for each in self.gathered for part in each.parts)

    @cached_property
    def kept(self) -> int:
        """This rank's shards."""
        return sum(part.kept * repeat for part, repeat in self.parts)

    @cached_property
    def largest_shard(self) -> int:
        """The largest of them."""
        return max(part.kept for part, _ in self.parts)

    @cached_property
    def around(self) -> int:
        """What is wide, in one piece; 0 where one rank has it all."""
        return sum(each.whole * each.unit.repeat for each in self.wide if each.ranks > 1)

    @cached_property
    def layer(self) -> int:
        """The largest layer likewise."""
        return max((each.whole for each in self.layers if each.ranks > 1), default=0)

    @cached_property
    def matrices(self) -> int:
        """Matrices of all layers, in one piece."""
        return sum(each.matrices * each.unit.repeat for each in self.layers)

    @cached_property
    def matrices_of_a_layer(self) -> int:
        """Those of the largest."""
        return max(each.matrices for each in self.layers)

    @cached_property
    def experts(self) -> int:
        """Of ``matrices`` those of experts."""
        found = ((part, repeat) for part, repeat in self.parts if part.weight.role == "experts")
        return sum(prod(part.local) * repeat for part, repeat in found)

    @cached_property
    def layers(self) -> tuple[Gathered, ...]:
        """Units that are gathered by themselves, in the dtype of the computation."""
        return tuple(each for each in self.gathered if not each.unit.wide)

    @cached_property
    def wide(self) -> tuple[Gathered, ...]:
        """Those that are gathered together, in float32."""
        return tuple(each for each in self.gathered if each.unit.wide)


def sharding(units: tuple[Unit, ...], plan: ParallelPlan) -> Sharding:
    """The units as a layout makes them: without an expert axis experts are gathered with their
    layer."""
    found: list[Gathered] = []
    for unit in units:
        parts = tuple(held(weight, plan) for weight in unit.weights)
        if unit.experts and plan.expert == 1:
            layer = found.pop()
            found.append(replace(layer, parts=layer.parts + parts))
        else:
            apart = unit.experts
            ranks = plan.expert_fsdp * plan.expert_replicas if apart else plan.batch_ranks
            found.append(Gathered(unit, parts, ranks))
    return Sharding(tuple(found))


def units(model: ModelConfig) -> tuple[Unit, ...]:
    """All weights: the layers of each stack, their experts, and what stands around the layers."""
    table = (model.vocab_size, model.d_model)
    root = [Weight("embedding", table, "wide")]
    if not model.tied:
        root.append(Weight("head", table, "wide"))
    found: list[Unit] = []
    for stack in model.stacks():
        found += _layers(stack)
        root += _norm("norms", stack, last=True)
        root += _tables(stack, per_layer=False)
    return (*found, Unit(ROOT, tuple(root)))


def _layers(stack: Stack) -> list[Unit]:
    """The stack's layers, those that are alike as one."""
    sparse = dict(zip(stack.sparse_layers, stack.sparse, strict=True))
    kinds = Counter(sparse.get(layer) for layer in range(stack.num_layers))
    found = []
    for moe, repeat in kinds.items():
        kind = "dense layer" if moe is None else "sparse layer"
        name = f"{stack.name} {kind}"
        weights = tuple(_layer(stack, moe))
        found.append(Unit(name, tuple(w for w in weights if w.role != "wide"), repeat))
        found += [Unit(f"{name}: {part}", tuple(of), repeat) for part, of in _experts(stack, moe)]
        wide = tuple(w for w in weights if w.role == "wide")
        found.append(Unit(f"{name}: norms and routers", wide, repeat))
    return found


def _layer(stack: Stack, moe: MoEConfig | None) -> Iterator[Weight]:
    """Everything of a layer but its experts."""
    projecting = moe is not None and moe.in_attention
    yield from _norm("norms", stack)
    yield from _projections(stack.attention, stack.d_model, projecting)
    yield from _tables(stack, per_layer=True)
    if stack.cross:
        yield from _norm("norms", stack)
        yield from _projections(stack.attention, stack.d_model, False)
    yield from _norm("norms", stack)
    if moe is None or not moe.in_feed_forward:
        yield from _network("feed_forward", stack.feed_forward, stack.d_model)
    if moe is not None:
        yield from _beside_experts(stack, moe)


def _beside_experts(stack: Stack, moe: MoEConfig) -> Iterator[Weight]:
    """Routers, shared experts and the extra network."""
    routers = moe.in_feed_forward + 2 * moe.in_attention
    for _ in range(routers):
        yield from _router(moe, stack.d_model)
    if not moe.in_feed_forward:
        return
    shared = moe.shared_ffn(stack.feed_forward)
    if shared is not None:
        yield from _network("shared_experts", shared, stack.d_model)
        if moe.shared_gate:
            yield Weight("shared_experts", (1, stack.d_model))
    if moe.extra_ffn:
        yield from _norm("extra_ffn", stack)
        yield from _network("extra_ffn", stack.feed_forward, stack.d_model)


def _router(moe: MoEConfig, d_model: int) -> Iterator[Weight]:
    """One matrix, and a vector of what is left, such as a bias."""
    rows, rest = divmod(moe.router.num_params(d_model, moe.num_experts), d_model)
    if rows:
        yield Weight("router", (rows, d_model), "wide")
    if rest:
        yield Weight("router", (rest,), "wide")


def _experts(stack: Stack, moe: MoEConfig | None) -> Iterator[tuple[str, list[Weight]]]:
    """The stacked networks [E ..], and those that project in attention."""
    if moe is None:
        return
    number, width = moe.num_experts, stack.d_model
    if moe.in_feed_forward:
        config = moe.expert_ffn(stack.feed_forward)
        # Matrices of stacked experts are [inputs, outputs], those of dense networks the reverse.
        yield (
            "experts",
            [
                replace(
                    weight,
                    shape=(number, *reversed(weight.shape)),
                    role="experts",
                    split=None if weight.split is None else len(weight.shape) - weight.split,
                )
                for weight in _network("experts", config, width)
            ],
        )
    if moe.in_attention:
        attention = stack.attention
        assert isinstance(attention, AttentionConfig)
        for part, out in (("queries", attention.q_width), ("keys", attention.kv_width)):
            yield part, [Weight("experts", (number, width, out), "experts")]


def _norm(name: str, stack: Stack, *, last: bool = False) -> Iterator[Weight]:
    """The last one of a stack sees all tokens, whoever shares them out before it."""
    for _ in range(stack.norm_params // stack.d_model):
        yield Weight(name, (stack.d_model,), "wide", partial="" if last else "tokens")


def _tables(stack: Stack, *, per_layer: bool) -> Iterator[Weight]:
    """The learned bias by distance: one a stack, or one a layer."""
    positions = stack.positions
    if positions.kind != RelativeBias.kind:
        return
    assert isinstance(positions, RelativeBias)
    if positions.per_layer == per_layer:
        table = (positions.num_buckets, stack.attention.num_heads)
        yield Weight("positions", table, "wide", split=1)


def _network(name: str, config: FeedForwardConfig, width: int) -> Iterator[Weight]:
    into = 2 if config.gated else 1
    for _ in range(into):
        yield Weight(name, (config.d_ff, width), split=0)
    yield Weight(name, (width, config.d_ff), split=1)
    if config.bias:
        for _ in range(into):
            yield Weight(name, (config.d_ff,), split=0)
        yield Weight(name, (width,))
    if config.hidden_bias != "none":
        yield Weight(name, (config.d_ff,), split=0)


@singledispatch
def _projections(attention: Attention, width: int, projecting: bool) -> Iterator[Weight]:
    """Attention's own matrices and vectors; fewer where experts are ``projecting``."""
    raise UserError(f"model.attention = {attention!r}: no such attention")


@_projections.register
def _(attention: AttentionConfig, width: int, projecting: bool) -> Iterator[Weight]:
    q, kv = attention.q_width, attention.kv_width
    if not projecting:
        for out in (q, kv, kv):
            yield Weight("attention", (out, width), split=0)
            if attention.bias != "none":
                yield Weight("attention", (out,), split=0)
    yield Weight("attention", (width, q), split=1)
    if attention.bias == "all" and not projecting:
        yield Weight("attention", (width,))
    norms = {"none": (), "head": (attention.head_dim,) * 2, "full": (q, kv)}[attention.qk_norm]
    for size in norms:
        yield Weight("attention", (size,), "wide", partial="heads")
    if attention.sinks:
        yield Weight("attention", (attention.num_heads,), split=0)


@_projections.register
def _(attention: LatentAttention, width: int, projecting: bool) -> Iterator[Weight]:
    rank = attention.q_lora_rank
    if rank is not None:
        yield Weight("attention", (rank, width), partial="heads")
        yield Weight("attention", (rank,), "wide", partial="heads")
    yield Weight("attention", (attention.q_width, width if rank is None else rank), split=0)
    down = attention.kv_lora_rank + attention.qk_rope_head_dim
    yield Weight("attention", (down, width), partial="heads")
    yield Weight("attention", (attention.kv_lora_rank,), "wide", partial="heads")
    up = attention.num_heads * (attention.qk_nope_head_dim + attention.v_head_dim)
    yield Weight("attention", (up, attention.kv_lora_rank), split=0)
    yield Weight("attention", (width, attention.v_width), split=1)
