"""Contests, the suites that make them, and the run that measures one after another."""

import gc
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import torch

from turnout.bench import machine
from turnout.bench.machine import Probe, Rates
from turnout.bench.options import Options
from turnout.bench.peers.installed import DISTRIBUTIONS
from turnout.bench.timing import Spread, Times, Work, interleaved
from turnout.train.host_memory import keep_freed_memory

Value = str | int | float
Cells = Mapping[str, Mapping[str, Value]]  # way -> column -> what stands there
Tell = Callable[[str], None]

_PEAK, _BANDWIDTH = "(peak)", "(bandwidth)"


def _nothing(times: Times, rates: Rates) -> Cells:
    return {}


@dataclass(frozen=True)
class Contest:
    """Ways to do one thing that were found to do the same.

    Attributes:
        facts: what is done, by column.
        dtype: that most arithmetic is done in.
        ways: a call of each is what is timed.
        bases: ways that the times of all are divided by, the one that matters most first.
        differences: of each way that was compared, from ours, over the largest entry.
        flops: arithmetic of a call, where it is known.
        parts: what a call consists of, such as the steps of decoding; a table shows one's time.
        unit: what one part takes, as the head of that column.
        left_out: ways that are not there, and why.
        warm: calls of a way before the one that is timed.
        patience: what takes more than so many times the first way is timed less often.
        cells: more columns, from the times and from what the machine reached beside them.
    """

    facts: Mapping[str, Value]
    dtype: torch.dtype
    ways: Mapping[str, Work]
    bases: tuple[str, ...]
    differences: Mapping[str, float] = field(default_factory=dict)
    flops: Mapping[str, int] = field(default_factory=dict)
    parts: int = 1
    unit: str = "ms"
    left_out: Mapping[str, str] = field(default_factory=dict)
    warm: int = 1
    patience: float = math.inf
    cells: Callable[[Times, Rates], Cells] = _nothing


@dataclass(frozen=True)
class Row:
    """A contest that was measured, as plain values.

    Attributes:
        seconds: of a call of each way, by repeat.
        peak: FLOP/s of products in this dtype, by repeat.
        bandwidth: bytes/s of reads, by repeat.
    """

    suite: str
    facts: Mapping[str, Value]
    dtype: str
    bases: tuple[str, ...]
    parts: int
    unit: str
    seconds: Mapping[str, tuple[float, ...]]
    differences: Mapping[str, float]
    flops: Mapping[str, int]
    left_out: Mapping[str, str]
    cells: Cells
    peak: tuple[float, ...]
    bandwidth: tuple[float, ...]

    @property
    def times(self) -> Times:
        """Seconds of a call."""
        return Times(self.seconds)

    def of_peak(self, way: str) -> float | None:
        """The share of the peak that a way reaches, where its arithmetic is known."""
        if way not in self.flops:
            return None
        return self.flops[way] / self.times.spread(way).median / Spread.of(self.peak).median


@dataclass(frozen=True)
class Result:
    """Everything a run found out."""

    suite: str
    command: str
    options: Mapping[str, Any]
    machine: Mapping[str, Any]
    rows: tuple[Row, ...]


class Suite(ABC):
    """Contests that answer one question."""

    name: ClassVar[str]

    @abstractmethod
    def contests(self, options: Options) -> Iterator[Contest]:
        """All contests, each made when it is asked for, so that the one before can be freed.

        Raises:
            UnequalError: two ways differ.
        """


def run(
    suite: Suite,
    options: Options,
    tell: Tell = lambda text: None,
    *,
    command: str = "",
    probe: Probe | None = None,
) -> Result:
    """Measure all contests of a suite, in this process, which keeps freed memory from then on.

    Args:
        tell: is told of every contest before and after it is measured.
        command: that was typed.

    Raises:
        UnequalError: two ways of a contest differ.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    kept = keep_freed_memory()
    rows = []
    contests = suite.contests(options)
    while (contest := next(contests, None)) is not None:
        rows.append(_measured(suite.name, contest, options.repeats, probe or Probe()))
        del contest
        gc.collect()
        tell(_line(rows[-1]))
    data = asdict(options)
    return Result(suite.name, command, data, machine.facts(DISTRIBUTIONS, kept), tuple(rows))


def _measured(suite: str, contest: Contest, repeats: int, probe: Probe) -> Row:
    multiply, read = probe.works(contest.dtype)
    ways = {**contest.ways, _PEAK: multiply, _BANDWIDTH: read}
    times = interleaved(ways, repeats, contest.warm, contest.patience)
    peak = tuple(probe.flops / each for each in times.seconds[_PEAK])
    bandwidth = tuple(probe.size / each for each in times.seconds[_BANDWIDTH])
    rates = Rates(Spread.of(peak).median, Spread.of(bandwidth).median)
    return Row(
        suite=suite,
        facts=dict(contest.facts),
        dtype=str(contest.dtype).removeprefix("torch."),
        bases=contest.bases,
        parts=contest.parts,
        unit=contest.unit,
        seconds={name: tuple(times.seconds[name]) for name in contest.ways},
        differences=dict(contest.differences),
        flops=dict(contest.flops),
        left_out=dict(contest.left_out),
        cells={way: dict(cells) for way, cells in contest.cells(times, rates).items()},
        peak=peak,
        bandwidth=bandwidth,
    )


def _line(row: Row) -> str:
    where = ", ".join(f"{name} {value}" for name, value in row.facts.items())
    base = row.bases[0]
    ratios = [f"{way} {row.times.ratio(way, base).median:.2f}" for way in row.seconds]
    return f"{row.suite}: {where}: over {base}: {', '.join(ratios)}"
