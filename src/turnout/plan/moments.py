"""The moments of a step at which most may be alive, with their bytes on one rank.

What the forward pass keeps grows to its end, and the backward pass gives it back layer by layer
while gradients grow. Along like layers both change evenly, so that a stack is fullest at one of its
ends; around them stand the head, the embedding and the update. Axes: R rows, S tokens of a row,
T tokens, M rows of the experts, H heads, D width, F hidden width, V vocabulary.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from turnout.plan.activations import (
    activations,
    attending,
    hidden_rows,
    largest_layer,
    last_norm,
    of_layers,
    rows_of,
    scores,
)
from turnout.plan.weights import Gathered
from turnout.plan.work import FLOAT, Load, StackWork, Work

CHUNK = 1 << 23  # logits that the head makes at a time


@dataclass(frozen=True)
class Moment:
    """Bytes alive beside weights, the optimiser's state and the average."""

    name: str
    size: int


@dataclass(frozen=True)
class _Alive:
    """Bytes as the step goes on: gradients that are there, weights that are gathered for all
    layers, and what is kept for the backward pass, casts included."""

    gradients: int
    wide: int
    kept: int

    @property
    def total(self) -> int:
        return self.gradients + self.wide + self.kept

    def less(self, kept: int) -> "_Alive":
        """Without some of what was kept."""
        return replace(self, kept=self.kept - kept)


def moments(work: Work, load: Load, gradients: int, casts: int, update: int) -> tuple[Moment, ...]:
    """All that may be the fullest, in their order.

    Args:
        gradients: bytes of this rank's shards.
        casts: of matrices, which are kept with what the backward pass needs.
        update: what the optimiser makes of its largest tensor.
    """
    wide = FLOAT * work.sharding.around
    earlier = gradients if work.config.train.micro_batches > 1 else 0
    alive = _Alive(earlier, wide, activations(work, load).total + casts)
    found = [*_forward(work, load, alive)]
    for part in reversed(work.stacks):
        alive = alive.less(last_norm(work, part))
        found += _backward(work, part, load, alive, casts)
        alive = _behind(work, part, load, alive, casts)
        found.append(Moment(f"embedding of the {part.stack.name}", alive.total + _table(work)))
        if not work.config.model.tied:  # autograd keeps it for that of the other stack
            alive = replace(alive, kept=alive.kept + _table(work))
    # Weights are given up before their gradients are copied to be scattered.
    found.append(Moment("scattering", alive.gradients + 2 * wide))
    # The norm squares the largest gradient in float64.
    found.append(Moment("norm", gradients + 2 * 2 * FLOAT * work.sharding.largest_shard))
    found.append(Moment("update", gradients + update))
    return tuple(found)


def _forward(work: Work, load: Load, alive: _Alive) -> Iterator[Moment]:
    """The last layer, whose weights stand beside the buffer that they came in, and the head."""
    part = work.stacks[-1]
    made = hidden_rows(work, part, load)
    if work.config.train.recompute:
        made += largest_layer(work, part, load)
    weights = 2 * work.entry * max(_layers(work, part))
    norm_and_table = last_norm(work, part) + _table(work)
    yield Moment("forward", alive.less(norm_and_table).total + weights + made)
    yield Moment("head", alive.total + head_bytes(work))


def _backward(
    work: Work, part: StackWork, load: Load, alive: _Alive, casts: int
) -> Iterator[Moment]:
    """The last layer of a stack and its first one: in the feed-forward part, and in attention,
    when the former has given back what it kept."""
    name, weights = part.stack.name, _layers(work, part)
    most = work.entry * max(weights)
    own = work.entry * (max(weights) + min(weights))  # in use, and the next on their way
    again = largest_layer(work, part, load)
    fed = again - attending(work, part)
    again = again if work.config.train.recompute else 0
    rows, score = 2 * rows_of(work, part, part.stack.d_model), scores(work, part)
    fed_back = 2 * hidden_rows(work, part, load) + most // 2  # gradients of half its matrices
    attended = score.made + most - fed
    around = alive.total + again + own + rows
    yield Moment(f"last layer of the {name}", around + max(fed_back, attended))
    first = _behind(work, part, load, alive, casts).total + largest_layer(work, part, load)
    scattered = FLOAT * max(weights)  # gradients of the layer behind it, as they leave
    around = first + own + rows + scattered
    yield Moment(f"first layer of the {name}", around + max(fed_back, attended + score.summed))


def _behind(work: Work, part: StackWork, load: Load, alive: _Alive, casts: int) -> _Alive:
    """When the layers of a stack have their gradients."""
    earlier = work.config.train.micro_batches > 1
    shards = [each for each in work.sharding.layers if _of(part, each)]
    found = FLOAT * sum(each.kept * each.unit.repeat for each in shards)
    matrices = sum(each.matrices * each.unit.repeat for each in shards)
    casted = casts * matrices // max(1, work.sharding.matrices)
    kept = alive.kept - of_layers(work, part, load) - casted
    return replace(alive, gradients=alive.gradients + (0 if earlier else found), kept=kept)


def _layers(work: Work, part: StackWork) -> list[int]:
    """Entries of the matrices of each kind of layer, in one piece; those of experts that are
    gathered over other ranks too."""
    found: list[int] = []
    for each in filter(partial(_of, part), work.sharding.layers):
        # Experts that no other rank has are gathered in half precision alone, to be cast.
        apart = each.ranks == 1 and (work.entry == FLOAT or work.plan.batch_ranks == 1)
        size = 0 if apart else each.whole
        if each.apart:
            found[-1] += size
        else:
            found.append(size)
    return found


def _of(part: StackWork, each: Gathered) -> bool:
    """Whether these are weights of the stack's layers."""
    return each.unit.name.startswith(f"{part.stack.name} ")


def head_bytes(work: Work) -> int:
    """The head and its gradients: rows, scaled, and their gradient, the weight in the dtype of the
    computation, and a chunk of logits in float32 and in that dtype, or the part that it adds to
    the gradient of the weight or of the rows."""
    part, model = work.stacks[-1], work.config.model
    half = work.entry < FLOAT
    chunks = -(-part.tokens // max(1, CHUNK // model.vocab_size))
    at_once = -(-part.tokens // chunks)
    logits = at_once * model.vocab_size
    weight = work.entry * model.vocab_size * model.d_model
    making = logits * (FLOAT + half * work.entry)
    adding = work.entry * (logits + max(model.vocab_size, at_once) * model.d_model)
    return 2 * rows_of(work, part, model.d_model) + half * weight + max(making, adding)


def _table(work: Work) -> int:
    """The gradient of a look-up, as large as the table."""
    return FLOAT * work.config.model.vocab_size * work.config.model.d_model
