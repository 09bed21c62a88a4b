"""Bytes on one rank, by component, and the most that are alive at once."""

from dataclasses import dataclass, fields
from functools import singledispatch

from turnout.config.errors import UserError
from turnout.config.optimizers import AdafactorConfig, AdamWConfig
from turnout.config.train import RunConfig
from turnout.plan.activations import activations, largest_layer
from turnout.plan.moments import Moment, head_bytes, moments
from turnout.plan.weights import Held, Sharding
from turnout.plan.work import FLOAT, Load, Work

UPDATED = {AdamWConfig.kind: 0, AdafactorConfig.kind: 4}
"""Tensors of a weight's size that an update makes: none in a fused one."""


@dataclass(frozen=True)
class Memory:
    """Bytes by component.

    ``weights``, ``gradients``, ``optimiser`` and ``average`` are this rank's shards, in float32.
    ``gathered`` are weights and gradients in one piece: those that are float32 whatever the dtype,
    and of the largest layer one in use and one on its way. ``casts`` are copies of matrices in the
    dtype of the computation, which the backward pass needs where nothing is gathered. ``dispatch``
    are rows that travelled, with the tables that lead them; ``activations`` everything else that is
    kept for the backward pass, and with recomputation what the largest layer makes again. ``head``
    is what the output head makes, ``update`` what the optimiser makes of its largest tensor. Not
    all of them are alive at once: ``moments`` tell when what is.
    """

    weights: int
    gradients: int
    optimiser: int
    average: int
    gathered: int
    casts: int
    activations: int
    dispatch: int
    head: int
    update: int
    moments: tuple[Moment, ...]

    def components(self) -> dict[str, int]:
        """All components by name."""
        names = (f.name for f in fields(self) if f.name != "moments")
        return {name: getattr(self, name) for name in names}

    @property
    def state(self) -> int:
        """What stays from step to step."""
        return self.weights + self.optimiser + self.average

    @property
    def fullest(self) -> Moment:
        """The moment when most is alive."""
        return max(self.moments, key=lambda each: each.size)

    @property
    def peak(self) -> int:
        """The most at once."""
        return self.state + self.fullest.size


def memory(work: Work, load: Load, optimiser: int | None = None) -> Memory:
    """What one rank holds at its fullest moments; the first rank's shards, the largest.

    Args:
        load: how many rows come to the experts of this rank.
        optimiser: ``optimiser_bytes`` of these shards, where they are known.
    """
    shards = work.sharding
    weights = FLOAT * shards.kept
    if optimiser is None:
        optimiser = optimiser_bytes(work.config, shards)
    kept, casts = activations(work, load), _casts(work)
    update = UPDATED[work.config.optimizer.kind] * FLOAT * shards.largest_shard
    again = 0
    if work.config.train.recompute:
        again = max(largest_layer(work, part, load) for part in work.stacks)
    return Memory(
        weights=weights,
        gradients=weights,
        optimiser=optimiser,
        average=weights if work.config.train.average else 0,
        # What is wide stays gathered, with its gradients, until the backward pass ends. Of layers
        # one is in use, the next on its way, and the gradients of one leave, in float32.
        gathered=2 * FLOAT * shards.around + (2 * work.entry + FLOAT) * _largest(work),
        casts=casts,
        activations=kept.total - kept.dispatch + again,
        dispatch=kept.dispatch,
        head=head_bytes(work),
        update=update,
        moments=moments(work, load, weights, casts, update),
    )


def optimiser_bytes(config: RunConfig, shards: Sharding) -> int:
    """The optimiser's state of all shards of one rank."""
    parts = shards.parts
    return sum(state_bytes(config.optimizer, part) * repeat for part, repeat in parts)


def _largest(work: Work) -> int:
    """Of the units that are gathered. Experts that no other rank has are so in half precision
    alone, to be cast."""
    if work.entry == FLOAT or work.plan.batch_ranks == 1:
        return work.sharding.layer
    return max(each.whole for each in work.sharding.layers)


def _casts(work: Work) -> int:
    """Matrices in half precision: of all layers, or of one where layers are computed again. Those
    that are gathered have that precision already."""
    if work.entry == FLOAT or work.plan.batch_ranks > 1:
        return 0
    shards = work.sharding
    again = work.config.train.recompute
    return work.entry * (shards.matrices_of_a_layer if again else shards.matrices)


@singledispatch
def state_bytes(optimizer: object, part: Held) -> int:
    """The optimiser's state of one weight on one rank."""
    raise UserError(f"optimizer = {optimizer!r}: no such optimiser")


@state_bytes.register
def _(optimizer: AdamWConfig, part: Held) -> int:
    """Two moments, and a count of steps."""
    return (2 * part.kept + 1) * FLOAT


@state_bytes.register
def _(optimizer: AdafactorConfig, part: Held) -> int:
    """Means of rows and of columns of each matrix; the square of what is no matrix, or small."""
    shape = part.weight.shape
    inner = shape[1:] if part.weight.role == "experts" else shape
    if len(inner) < 2 or min(inner) < optimizer.min_factored:
        return part.kept * FLOAT
    return (part.kept // part.shape[-1] + part.kept // part.shape[-2]) * FLOAT
