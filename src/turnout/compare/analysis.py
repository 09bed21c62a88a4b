"""From the runs of a comparison to its figures. Pure: no file is read, nothing is drawn."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from turnout.compare.runner import Finished
from turnout.compare.speed import Ratio, Spread, running_minimum, speed_up, spread
from turnout.compare.track import Track
from turnout.config.arms import Arm, arms, pairs
from turnout.config.compare import Protocol
from turnout.config.errors import UserError

AXES = ("steps", "arithmetic", "training clock")


@dataclass(frozen=True)
class Middle:
    """Median and range of finite numbers over seeds; None where a seed has none."""

    median: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Seed:
    """One reported run of an arm.

    Attributes:
        run: its name, which is its folder's.
        final_loss: of the last evaluation, nats a target; None if it was not finite.
        best_loss: the end of the running minimum.
        seconds: the training clock.
        evaluating: seconds of evaluations, beside it.
        peak_memory: bytes of the process that ended the run.
        failed: why it stopped early; "".
    """

    seed: int
    run: str
    final_loss: float | None
    best_loss: float | None
    seconds: float | None
    evaluating: float | None
    peak_memory: int | None
    failed: str


@dataclass(frozen=True)
class ArmResult:
    """An arm over its seeds.

    Attributes:
        rate: the learning rate it was trained with.
        trial: final validation loss by learning rate on seed 0, None where not finite; empty
            without a trial of its own.
        edge: whether ``rate`` is the smallest or largest of several that were tried.
        tracks: the curves of ``seeds``, in their order; None for a run without an evaluation.
    """

    arm: Arm
    rate: float
    trial: tuple[tuple[float, float | None], ...]
    edge: bool
    seeds: tuple[Seed, ...]
    tracks: tuple[Track | None, ...]

    @property
    def loss(self) -> Middle:
        """The end of the running minimum, over seeds."""
        return _middle([seed.best_loss for seed in self.seeds])

    @property
    def seconds(self) -> Middle:
        return _middle([seed.seconds for seed in self.seeds])

    @property
    def peak_memory(self) -> Middle:
        return _middle([_as_float(seed.peak_memory) for seed in self.seeds])


@dataclass(frozen=True)
class PairResult:
    """An arm against a baseline, seed by seed.

    Attributes:
        seeds: those that both have.
        ratios: speed-ups by axis (``AXES``), a ratio a seed.
        loss: best loss of the arm minus that of the baseline, over seeds; negative is better.
    """

    baseline: str
    arm: str
    seeds: tuple[int, ...]
    ratios: tuple[tuple[Ratio, ...], ...]
    loss: Middle

    @property
    def spreads(self) -> tuple[Spread, ...]:
        """Median and range by axis."""
        return tuple(spread(ratios) for ratios in self.ratios)


@dataclass(frozen=True)
class Comparison:
    """All figures of a comparison."""

    protocol: Protocol
    arms: tuple[ArmResult, ...]
    pairs: tuple[PairResult, ...]
    finished: tuple[Finished, ...]

    def arm(self, name: str) -> ArmResult:
        """The arm of that name."""
        return next(result for result in self.arms if result.arm.name == name)


def compare(protocol: Protocol, finished: Sequence[Finished]) -> Comparison:
    """The figures of a comparison whose runs are all there.

    Raises:
        UserError: the runs were evaluated on different targets.
    """
    _check_targets([run for run in finished if run.track is not None])
    results = tuple(_arm_result(protocol, arm, finished) for arm in arms(protocol))
    by_name = {result.arm.name: result for result in results}
    found = tuple(
        _pair_result(by_name[baseline.name], by_name[arm.name]) for baseline, arm in pairs(protocol)
    )
    return Comparison(protocol, results, found, tuple(finished))


def _check_targets(finished: Sequence[Finished]) -> None:
    """Losses over different targets are not compared: too little text may cut a routing group."""
    for run in finished[1:]:
        first, track = finished[0].track, run.track
        if first is not None and track is not None and track.targets != first.targets:
            raise UserError(
                f"run {run.planned.name}: evaluated on {track.targets:,} targets, "
                f"{finished[0].planned.name} on {first.targets:,}; give more text, or lower "
                "train.eval_rows, in another folder"
            )


def _arm_result(protocol: Protocol, arm: Arm, finished: Sequence[Finished]) -> ArmResult:
    mine = [run for run in finished if run.planned.arm.name == arm.name]
    reported = [run for run in mine if run.planned.seed > 0]
    trial = tuple(
        (run.planned.rate, _finite(run.final_loss)) for run in mine if run.planned.seed == 0
    )
    rate = reported[0].planned.rate
    tried = protocol.compare.learning_rates
    return ArmResult(
        arm=arm,
        rate=rate,
        trial=trial,
        edge=len(trial) > 1 and rate in (min(tried), max(tried)),
        seeds=tuple(_seed(run) for run in reported),
        tracks=tuple(run.track for run in reported),
    )


def _seed(run: Finished) -> Seed:
    track = run.track
    return Seed(
        seed=run.planned.seed,
        run=run.planned.name,
        final_loss=_finite(run.final_loss),
        best_loss=None if track is None else _finite(running_minimum(track.losses)[-1]),
        seconds=None if track is None else track.seconds[-1],
        evaluating=None if track is None else track.evaluating,
        peak_memory=run.outcome.peak_memory,
        failed=run.outcome.failed,
    )


def _pair_result(baseline: ArmResult, ours: ArmResult) -> PairResult:
    theirs = {s.seed: (s, track) for s, track in zip(baseline.seeds, baseline.tracks, strict=True)}
    seeds, ratios, losses = [], [], []
    for seed, track in zip(ours.seeds, ours.tracks, strict=True):
        if seed.seed not in theirs:
            continue
        other, other_track = theirs[seed.seed]
        seeds.append(seed.seed)
        ratios.append(_ratios(baseline.arm, other_track, ours.arm, track))
        both = seed.best_loss is not None and other.best_loss is not None
        losses.append((seed.best_loss or 0.0) - (other.best_loss or 0.0) if both else None)
    by_axis = tuple(tuple(ratio[axis] for ratio in ratios) for axis in range(len(AXES)))
    return PairResult(baseline.arm.name, ours.arm.name, tuple(seeds), by_axis, _middle(losses))


def _ratios(baseline: Arm, theirs: Track | None, arm: Arm, ours: Track | None) -> tuple[Ratio, ...]:
    """The speed-up by each of ``AXES``."""
    if theirs is None or ours is None:
        return tuple(Ratio(None) for _ in AXES)
    spent = (
        (tuple(map(float, theirs.steps)), tuple(map(float, ours.steps))),
        (theirs.flops(baseline.step_flops), ours.flops(arm.step_flops)),
        (theirs.seconds, ours.seconds),
    )
    return tuple(speed_up(one, theirs.losses, other, ours.losses) for one, other in spent)


def _middle(values: Sequence[float | None]) -> Middle:
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return Middle(None, None, None)
    return Middle(statistics.median(known), min(known), max(known))


def _as_float(value: int | None) -> float | None:
    return None if value is None else float(value)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
