"""All four answers of a trace."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from turnout.config.train import RunConfig
from turnout.simulate.what_if.drops import Drops, drops
from turnout.simulate.what_if.ranks import (
    Placed,
    Replicated,
    Stragglers,
    Tell,
    check_spares,
    placements,
    replications,
    sizes,
    stragglers,
)
from turnout.simulate.what_if.trace import Trace

FACTORS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0)
SPARES = (1, 2, 4)


@dataclass(frozen=True)
class Question:
    """What is asked of a trace; None leaves it to the configuration.

    Attributes:
        trace: path of the record.
        factors: capacity factors; that of training is added.
        ranks: that share out the experts.
        spares: more places on each rank.
        rows: of a micro-batch.
    """

    trace: str
    factors: tuple[float, ...] = FACTORS
    ranks: int | None = None
    spares: tuple[int, ...] | None = None
    rows: int | None = None


@dataclass(frozen=True)
class Answers:
    """What a trace says.

    Attributes:
        rows: of a micro-batch, of which there are ``batches``; the first ``batches // 2`` are
            fitted on, the others measured.
        tokens: that the layers routed, all together.
        factor: the capacity factor of training.
        ranks: those of ``replicas``.
    """

    preset: str
    trace: str
    rows: int
    batches: int
    tokens: int
    factor: float | None
    ranks: int
    drops: Drops
    stragglers: Stragglers
    placements: tuple[Placed, ...]
    replicas: tuple[Replicated, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @property
    def placed(self) -> Placed:
        """On ``ranks`` ranks."""
        return next(each for each in self.placements if each.ranks == self.ranks)


def what_if(run: RunConfig, question: Question, tell: Tell = lambda text: None) -> Answers:
    """Look at a trace of a run of ``run``.

    Args:
        tell: is told what is being done.

    Raises:
        UserError: the trace is not one of this model, or the question has no answer.
    """
    tell(f"reading {question.trace}")
    rows = run.train.micro_batch_rows if question.rows is None else question.rows
    trace = Trace.read(question.trace, run.model, rows, exactly=question.rows is not None)
    factor = trace.layers[0].sparse.moe.train_capacity_factor
    experts = [layer.sparse.experts for layer in trace.layers]
    ranks, chosen = sizes(experts, question.ranks)
    spares = _spares(question.spares, experts, chosen)
    tell("granting slots")
    dropped = drops(trace, sorted({*question.factors, *([factor] if factor else [])}))
    waiting = stragglers(trace, ranks, factor)
    better, homes = placements(trace, ranks, tell)
    return Answers(
        preset=run.preset,
        trace=question.trace,
        rows=trace.rows,
        batches=trace.batches,
        tokens=trace.tokens,
        factor=factor,
        ranks=chosen,
        drops=dropped,
        stragglers=waiting,
        placements=better,
        replicas=replications(trace, homes[chosen], spares, run, tell),
    )


def _spares(asked: tuple[int, ...] | None, experts: Sequence[int], ranks: int) -> tuple[int, ...]:
    """Those that are asked for; else as many of the usual ones as there are other experts."""
    if asked is None:
        most = min(experts) - min(experts) // ranks
        return tuple(spare for spare in SPARES if spare <= most)
    check_spares(asked, experts, ranks)
    return tuple(sorted(set(asked)))
