"""When a curve reaches a quality, and how much sooner than another: no extrapolation, ever.

The speed-up is that of the Switch Transformer paper (2101.03961, sections 3 and 4.3): what the
baseline spends to its final quality, over what the other spends to the same quality.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

# Not reached ranks below every speed-up.
_NEVER = -math.inf


@dataclass(frozen=True)
class Reach:
    """What had been spent when a quality was reached.

    ``first`` says that it was reached at the first evaluation, so that ``spent`` is an upper
    bound: nothing is known of what came before.
    """

    spent: float
    first: bool


@dataclass(frozen=True)
class Ratio:
    """A speed-up; ``at_least`` where ours was there at its first evaluation. None: not reached."""

    value: float | None
    at_least: bool = False

    def text(self) -> str:
        """As tables show it: ``1.31``, ``at least 4.00``, ``not reached``."""
        if self.value is None:
            return "not reached"
        return f"{'at least ' if self.at_least else ''}{self.value:.2f}"


@dataclass(frozen=True)
class Spread:
    """Median and range over seeds.

    A handful of seeds says nothing of a distribution's form, and a seed that never reaches the
    quality has no number to average: it ranks below all that do. With an even count the median
    is the mean of the middle two, and not reached where either is.
    """

    median: Ratio
    low: Ratio
    high: Ratio
    seeds: int
    reached: int

    def text(self) -> str:
        """``1.31 (1.27 to 1.33)``; the median alone for one seed; ``not reached (up to 1.08, by 1
        of 3 seeds)``."""
        if self.seeds == 1:
            return self.median.text()
        if self.reached == 0:
            return f"not reached by any of {self.seeds} seeds"
        if self.reached < self.seeds:
            share = f"{self.reached} of {self.seeds} seeds"
            return f"{self.median.text()} (up to {self.high.text()}, reached by {share})"
        return f"{self.median.text()} ({self.low.text()} to {self.high.text()})"


def running_minimum(losses: Sequence[float]) -> tuple[float, ...]:
    """The best loss so far at each evaluation; one that is not finite is none."""
    finite = (loss if math.isfinite(loss) else math.inf for loss in losses)
    return tuple(accumulate(finite, min))


def reach(spent: Sequence[float], losses: Sequence[float], target: float) -> Reach | None:
    """Where the running minimum of ``losses`` first is at or below ``target``.

    Between two evaluations the running minimum is taken to be a straight line over ``spent``.

    Args:
        spent: what each evaluation had cost so far, increasing: steps, FLOPs or seconds.
        losses: the validation loss at each, same length.
        target: a finite loss.

    Returns:
        None if it never gets there.
    """
    best = running_minimum(losses)
    index = next((i for i, loss in enumerate(best) if loss <= target), None)
    if index is None:
        return None
    if index == 0:
        return Reach(spent[0], first=True)
    above, below = best[index - 1], best[index]
    if math.isinf(above):
        return Reach(spent[index], first=False)  # no line leads from a loss that was not finite
    share = (above - target) / (above - below)
    return Reach(spent[index - 1] + share * (spent[index] - spent[index - 1]), first=False)


def speed_up(
    baseline_spent: Sequence[float],
    baseline_losses: Sequence[float],
    spent: Sequence[float],
    losses: Sequence[float],
) -> Ratio:
    """What the baseline spends to its final quality over what ours spends to the same.

    The final quality is the end of the baseline's running minimum. A baseline that was best
    before its end counts as having spent what it had then, not what it wasted afterwards.
    """
    best = running_minimum(baseline_losses)
    if not best or not math.isfinite(best[-1]):
        return Ratio(None)
    theirs = reach(baseline_spent, baseline_losses, best[-1])
    ours = reach(spent, losses, best[-1])
    if theirs is None or ours is None:
        return Ratio(None)
    return Ratio(theirs.spent / ours.spent, ours.first)


def spread(ratios: Sequence[Ratio]) -> Spread:
    """Median and range of at least one ratio.

    Raises:
        ValueError: there is none.
    """
    if not ratios:
        raise ValueError("a spread needs at least one ratio")
    ranked = sorted(ratios, key=_rank)
    middle = ranked[(len(ranked) - 1) // 2], ranked[len(ranked) // 2]
    reached = sum(ratio.value is not None for ratio in ranked)
    return Spread(_mean(*middle), ranked[0], ranked[-1], len(ranked), reached)


def _rank(ratio: Ratio) -> float:
    return _NEVER if ratio.value is None else ratio.value


def _mean(one: Ratio, other: Ratio) -> Ratio:
    if one.value is None or other.value is None:
        return Ratio(None)
    return Ratio(statistics.fmean((one.value, other.value)), one.at_least or other.at_least)
