"""What the backward pass needs of the forward pass: bytes on one rank, for one micro-batch.

Counted are the tensors that torch's autograd keeps in our layers on a CPU, one by one, as
tests/plan compares them with what it really keeps. Axes: R rows, S tokens of a row, T tokens,
H heads, D width, F hidden width, E experts, N assignments, M rows of the experts.
"""

from dataclasses import dataclass
from functools import singledispatch
from operator import add

from turnout.config.attention import Attention, AttentionConfig
from turnout.config.errors import UserError
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.latent_attention import LatentAttention
from turnout.config.moe import MoEConfig
from turnout.config.norms import BIASED
from turnout.config.positions import RelativeBias, Rotary
from turnout.plan.work import FLOAT, INDEX, Load, StackWork, Work, routed


@dataclass(frozen=True)
class Activations:
    """Bytes by part. ``dispatch`` is what travelled: the rows of the experts and those that came
    back, with the tables that lead them; ``head`` is the gradient of its weight, which is made
    beside the logits."""

    attention: int = 0
    feed_forward: int = 0
    experts: int = 0
    dispatch: int = 0
    router: int = 0
    norms: int = 0
    inputs: int = 0
    head: int = 0

    @property
    def total(self) -> int:
        return sum(vars(self).values())

    def __add__(self, other: "Activations") -> "Activations":
        return Activations(*map(add, vars(self).values(), vars(other).values()))

    def times(self, count: int) -> "Activations":
        """Those of ``count`` layers."""
        return Activations(*(count * size for size in vars(self).values()))


def activations(work: Work, load: Load) -> Activations:
    """All that one micro-batch keeps between its forward and its backward pass.

    With recomputation that is the input of every layer; see ``largest_layer`` for what one layer
    takes beside that.
    """
    return _kept(work, load, again=work.config.train.recompute)


def made(work: Work, load: Load) -> Activations:
    """All that is made for a backward pass, kept or not."""
    return _kept(work, load, again=False)


def _kept(work: Work, load: Load, again: bool) -> Activations:
    found = _around(work)
    for part in work.stacks:
        found += _of_layers(work, part, load, again)
        if _apart(work, part) or again or work.entry != FLOAT or work.config.model.dropout:
            found += Activations(attention=_shared_bias(work, part))
    return found


def of_layers(work: Work, part: StackWork, load: Load) -> int:
    """Bytes that the layers of one stack keep."""
    return _of_layers(work, part, load, work.config.train.recompute).total


def _of_layers(work: Work, part: StackWork, load: Load, again: bool) -> Activations:
    """With recomputation the inputs alone."""
    if again:
        rows = _rows(work, part, part.stack.d_model) // work.spread
        return Activations(inputs=rows).times(part.stack.num_layers)
    kinds = (_layer(work, part, moe, load).times(count) for moe, count in part.kinds)
    return sum(kinds, Activations())


def largest_layer(work: Work, part: StackWork, load: Load) -> int:
    """Bytes that the largest layer of a stack keeps of its own, made again or not."""
    return max(_layer(work, part, moe, load).total for moe, _ in part.kinds)


def attending(work: Work, part: StackWork) -> int:
    """Of a layer's, those of self-attention and cross-attention."""
    found = _self_attention(work, part, None)
    return (found + _cross_attention(work, part) if part.stack.cross else found).total


def hidden_rows(work: Work, part: StackWork, load: Load) -> int:
    """Bytes of the widest tensor of the hidden width: of a dense layer, or of the experts."""
    dense, tensor = part.stack.feed_forward, work.plan.tensor
    found = []
    for moe, _ in part.kinds:
        if moe is None or not moe.in_feed_forward:
            found.append(part.tokens * (dense.d_ff // tensor))
        else:
            width = moe.expert_ffn(dense).d_ff // tensor
            found.append(routed(work, part, moe, load) * width)
    return max(found) * work.entry


def rows_of(work: Work, part: StackWork, width: int) -> int:
    """Bytes of [T, width] in the dtype of the computation."""
    return _rows(work, part, width)


def last_norm(work: Work, part: StackWork) -> int:
    """Bytes that the norm behind a stack keeps."""
    return _norm(work, part).total


@dataclass(frozen=True)
class Scores:
    """Bytes of the backward pass of attention that are as large as its probabilities: ``made`` in
    each layer, and the ``summed`` gradient of a bias that layers share."""

    made: int
    summed: int


def scores(work: Work, part: StackWork) -> Scores:
    """The gradients of probabilities and of logits; of the bias alone where an operator makes both
    a few rows at a time, which are not counted."""
    if part.stack.positions.kind != RelativeBias.kind:
        return Scores(0, 0)
    shared = 0 if _a_layer(part) else _bias(work, part)
    if _apart(work, part):
        return Scores(_bias(work, part), shared)
    heads = part.stack.attention.num_heads // work.plan.tensor
    entries = part.rows * heads * part.length * part.length
    if work.config.model.dropout:
        return Scores(entries * FLOAT + (_bias(work, part) if work.entry != FLOAT else 0), shared)
    return Scores(2 * entries * FLOAT, shared)


def _layer(work: Work, part: StackWork, moe: MoEConfig | None, load: Load) -> Activations:
    found = _self_attention(work, part, moe)
    if part.stack.cross:
        found += _cross_attention(work, part)
    if moe is None or not moe.in_feed_forward:
        return found + _dense(work, part, part.stack.feed_forward)
    found += _norm(work, part, kept=False) + _sparse(work, part, moe, load)
    shared = moe.shared_ffn(part.stack.feed_forward)
    if shared is not None:
        # A copy without padding is what the shared experts read.
        found += _network(work, part, shared)
        found += Activations(feed_forward=_rows(work, part, part.stack.d_model))
        if moe.shared_gate:
            gate = _rows(work, part, part.stack.d_model) + 2 * part.tokens * work.entry
            found += Activations(feed_forward=gate)
    return found + (_dense(work, part, part.stack.feed_forward) if moe.extra_ffn else Activations())


def _rows(work: Work, part: StackWork, width: int) -> int:
    """Bytes of [T, width] in the dtype of the computation."""
    return part.tokens * width * work.entry


def _norm(work: Work, part: StackWork, kept: bool = True) -> Activations:
    """What is normalised, the inverse root, and the result where the next product keeps it,
    gathered where tokens were shared out. With a mean, which is kept, that is a float32 copy."""
    tokens, width = part.tokens // work.spread, part.stack.d_model
    mean = work.config.model.norm in BIASED
    wide = tokens * (width * FLOAT + 2 * FLOAT if mean else width * work.entry + FLOAT)
    wide += _dropped(work, part, width)
    return Activations(norms=wide + (_rows(work, part, width) if kept else 0))


def _dropped(work: Work, part: StackWork, width: int) -> int:
    """Dropout's mask, in the dtype of what it acts on."""
    return _rows(work, part, width) // work.spread if work.config.model.dropout else 0


def _dense(work: Work, part: StackWork, config: FeedForwardConfig) -> Activations:
    return _norm(work, part) + _network(work, part, config)


def _network(work: Work, part: StackWork, config: FeedForwardConfig) -> Activations:
    kept = _hidden(config, bool(work.config.model.dropout))
    width = config.d_ff // work.plan.tensor
    return Activations(feed_forward=kept * _rows(work, part, width))


def _hidden(config: FeedForwardConfig, dropout: bool) -> int:
    """Tensors of the hidden width: a ReLU keeps its result alone, which the next product keeps
    too; GELU its input; a gated form gate, its activation and the other factor; a clamped one
    what came before and after each clamp, and the sigmoid."""
    kinds = {"relu": 1, "gelu": 2, "geglu": 4, "swiglu": 4, "clamped_swiglu": 9}
    return kinds[config.activation] + (config.hidden_bias != "none") + 2 * dropout


def _sparse(work: Work, part: StackWork, moe: MoEConfig, load: Load) -> Activations:
    """Router, rows there and back, hidden rows."""
    stack, tokens = part.stack, part.tokens
    candidates = tokens * moe.router.candidates(moe.num_experts)
    rows = max(routed(work, part, moe, load), 0 if work.plan.expert > 1 else candidates)
    expert = moe.expert_ffn(stack.feed_forward)
    hidden = _hidden(expert, moe.expert_dropout > 0) * (expert.d_ff // work.plan.tensor)
    returned = candidates * stack.d_model * work.entry
    arrived = rows * (stack.d_model * work.entry + (2 * INDEX if work.plan.expert > 1 else 0))
    return Activations(
        experts=rows * hidden * work.entry,
        dispatch=arrived + returned,
        router=_router(tokens, candidates, moe, stack.d_model * work.entry),
    )


def _router(tokens: int, candidates: int, moe: MoEConfig, row: int) -> int:
    """What it reads, rows of so many bytes, four tables [T, E] of it, and of each candidate its
    expert, token and place, its weight and probability, and two bits."""
    return (
        tokens * (row + moe.num_experts * 4 * FLOAT + 33)
        + candidates * (5 * INDEX + 3 * FLOAT + 2)
        + moe.num_experts * (3 * FLOAT)
    )


def _self_attention(work: Work, part: StackWork, moe: MoEConfig | None) -> Activations:
    stack = part.stack
    found = _norm(work, part, kept=moe is None or not moe.in_attention)
    positions = stack.positions
    learned = positions.kind == RelativeBias.kind
    rotated = stack.positions.kind == Rotary.kind
    dropped = bool(work.config.model.dropout)
    # By operators of our own nothing of a learned bias is kept but the bias itself.
    blockwise = learned and (dropped or _apart(work, part))
    plain = learned and not blockwise
    kernel = _Kernel(part.length, part.length, plain, rotated, blockwise, dropped)
    found += Activations(attention=_attention(stack.attention, work, part, part, kernel))
    if learned and _a_layer(part):
        found += Activations(attention=part.length * part.length * INDEX)
        found += Activations(attention=_bias(work, part) if blockwise else 0)
    if moe is not None and moe.in_attention:
        candidates = part.tokens * moe.router.candidates(moe.num_experts)
        each = 2 * candidates * stack.d_model * work.entry
        router = _router(part.tokens, candidates, moe, stack.d_model * work.entry)
        found += Activations(dispatch=2 * each, router=2 * router)
    return found


def _cross_attention(work: Work, part: StackWork) -> Activations:
    encoder = work.stacks[0]
    dropped = bool(work.config.model.dropout)
    kernel = _Kernel(part.length, encoder.length, plain=False, dropped=dropped)
    held = _attention(part.stack.attention, work, part, encoder, kernel)
    return _norm(work, part) + Activations(attention=held)


@dataclass(frozen=True)
class _Kernel:
    """Attention of ``queries`` to ``keys`` of a row. One that is ``plain`` keeps the
    probabilities, in float32: so it is where the bias is learned. One that is ``biased`` has a bias
    of the heads, counted apart, in the place of a mask. What is ``dropped`` is drawn again."""

    queries: int
    keys: int
    plain: bool
    rotated: bool = False
    biased: bool = False
    dropped: bool = False


@singledispatch
def _attention(
    attention: Attention, work: Work, part: StackWork, source: StackWork, kernel: _Kernel
) -> int:
    raise UserError(f"model.attention = {attention!r}: no such attention")


@_attention.register
def _(
    attention: AttentionConfig, work: Work, part: StackWork, source: StackWork, kernel: _Kernel
) -> int:
    q, kv = attention.q_width // work.plan.tensor, attention.kv_width // work.plan.tensor
    heads = attention.num_heads // work.plan.tensor
    if kernel.plain:
        held = (part.tokens * q + 2 * source.tokens * q) * FLOAT + _rows(work, part, q)
        held += _probabilities(work, part, heads, kernel)
    else:
        # The heads' sums are queries' in shape and order: joining those of rotated ones is a copy.
        # With dropout each head has keys and values of its own, and the sums are in token's order.
        copies = 3 if kernel.rotated and not kernel.dropped else 2
        read = q if kernel.dropped else kv
        held = copies * _rows(work, part, q) + 2 * _rows(work, source, read)
        held += part.tokens * heads * FLOAT + _mask(work, part, kernel)
    norms = 0
    if attention.qk_norm != "none":
        roots = heads + attention.kv_heads // work.plan.tensor
        roots = roots if attention.qk_norm == "head" else 2
        norms = _rows(work, part, q + kv) + part.tokens * roots * FLOAT
    return held + norms


@_attention.register
def _(
    attention: LatentAttention, work: Work, part: StackWork, source: StackWork, kernel: _Kernel
) -> int:
    heads = attention.num_heads // work.plan.tensor
    q, v = attention.q_width // work.plan.tensor, attention.v_width // work.plan.tensor
    latent = attention.kv_lora_rank
    held = 2 * _rows(work, part, q) + 3 * _rows(work, part, v)
    if kernel.dropped:
        # The sums are in token's order; of the values all that they were projected with is kept.
        up = heads * attention.qk_nope_head_dim
        held += _rows(work, part, up) - _rows(work, part, v)
    held += 2 * _rows(work, part, latent) + part.tokens * FLOAT
    if attention.q_lora_rank is not None:
        rank = attention.q_lora_rank
        held += 2 * _rows(work, part, rank) + part.tokens * FLOAT
    if kernel.plain:
        return held + _probabilities(work, part, heads, kernel)
    return held + part.tokens * heads * FLOAT + _mask(work, part, kernel)


def _probabilities(work: Work, part: StackWork, heads: int, kernel: _Kernel) -> int:
    """[R, H, S, S] in float32: the softmax."""
    return part.rows * heads * kernel.queries * kernel.keys * FLOAT


def _mask(work: Work, part: StackWork, kernel: _Kernel) -> int:
    """[R, 1, S, S] as a number to be added, made for each layer; with dropout it stays bits."""
    return (
        0
        if kernel.biased or kernel.dropped
        else part.rows * kernel.queries * kernel.keys * work.entry
    )


def _shared_bias(work: Work, part: StackWork) -> int:
    """The bias of a stack, which layers wait for that are made again, and operators of our own;
    else it is gone with the forward pass."""
    positions = part.stack.positions
    if positions.kind != RelativeBias.kind or _a_layer(part):
        return 0
    return _bias(work, part)


def _bias(work: Work, part: StackWork) -> int:
    """[H, S, S] in float32, or with the mask in it [R, H, S, S] in the dtype of the computation."""
    heads = part.stack.attention.num_heads // work.plan.tensor
    entries = heads * part.length * part.length
    return entries * FLOAT if _apart(work, part) else part.rows * entries * work.entry


def _apart(work: Work, part: StackWork) -> bool:
    """Whether attention has a learned bias that meets the mask a few rows at a time."""
    attention = part.stack.attention
    learned = part.stack.positions.kind == RelativeBias.kind
    own = isinstance(attention, AttentionConfig) and attention.kv_heads == attention.num_heads
    return learned and own and not work.config.model.dropout


def _a_layer(part: StackWork) -> bool:
    """Whether each layer has a table of its own."""
    positions = part.stack.positions
    return positions.num_params(2, 1) > positions.num_params(1, 1)


def _around(work: Work) -> Activations:
    """Embedded ids, the final norms, targets, and the masks and rotations that layers share."""
    found = Activations()
    for part in work.stacks:
        shared = part.tokens * INDEX + part.rows * part.length * part.length
        positions = part.stack.positions
        if positions.kind == RelativeBias.kind:
            shared += part.rows * part.length * part.length
            shared += part.length * part.length * INDEX
        if positions.kind == Rotary.kind:
            assert isinstance(positions, Rotary)
            turned = positions.rotated(part.stack.attention.rotary_dim)
            shared += part.tokens * turned * FLOAT
        if part.stack.cross:
            shared += part.rows * part.length * work.stacks[0].length
        dropped = _dropped(work, part, part.stack.d_model)
        found += _norm(work, part) + Activations(inputs=shared + dropped)
    model = work.config.model
    head = FLOAT * model.vocab_size * model.d_model
    return found + Activations(inputs=work.stacks[-1].tokens * (INDEX + 1), head=head)
