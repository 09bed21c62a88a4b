"""Cells of an experiment: runs of ``turnout train``, several at once, kept when they are done."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LAST = 50  # steps over which loads are added up


@dataclass(frozen=True)
class Cell:
    """An arm under one seed; ``options`` are those of ``turnout train``."""

    arm: str
    seed: int
    options: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.arm.replace(' ', '-').replace(',', '')}-seed{self.seed}"


@dataclass(frozen=True)
class Traffic:
    """What passed a sparse layer.

    Attributes:
        variation: standard deviation over mean of the experts' loads, added up over the last
            steps.
        violation: largest load over the mean, less 1, of the same loads.
        dropped: share of wanted assignments dropped over the last steps.
        unrouted: share of real tokens that no expert computed over the last steps.
        computed: experts that computed a real token, the mean over all steps.
    """

    variation: float
    violation: float
    dropped: float
    unrouted: float
    computed: float


@dataclass(frozen=True)
class Result:
    """What a finished run says.

    Attributes:
        loss: held-out nats a target at the end.
        traffic: of each sparse layer, by name.
        speed: median tokens a second.
        seconds: the run's whole time.
    """

    loss: float
    traffic: Mapping[str, Traffic]
    speed: float
    seconds: float

    def mean(self, quantity: Callable[[Traffic], float]) -> float:
        """The mean over sparse layers."""
        return _mean(map(quantity, self.traffic.values()))


def cells(
    arms: Mapping[str, Sequence[str]], seeds: Iterable[int], common: Sequence[str]
) -> list[Cell]:
    """Every arm under every seed, seeds outermost, so that an early stop leaves whole tables; an
    arm's options take the place of the common ones."""
    return [
        Cell(arm, seed, merged(common, options, ("--train.seed", str(seed))))
        for seed in seeds
        for arm, options in arms.items()
    ]


def merged(*parts: Sequence[str]) -> tuple[str, ...]:
    """Options and their values, the last one given of each."""
    found = {
        name: value for part in parts for name, value in zip(part[::2], part[1::2], strict=True)
    }
    return tuple(word for pair in found.items() for word in pair)


def run(
    table: Sequence[Cell], preset: str, folder: Path, jobs: int, until: float | None = None
) -> dict[Cell, Result]:
    """The results of all cells that are done, after running what is missing, ``jobs`` at once.

    Args:
        until: no cell begins after this time (``time.time``).
    """
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda cell: _run(cell, preset, folder, until), table))
    return {cell: found for cell in table if (found := _read(folder / cell.name)) is not None}


def _run(cell: Cell, preset: str, folder: Path, until: float | None) -> None:
    place = folder / cell.name
    if _read(place) is not None or (until is not None and time.time() > until):
        return
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    command = [sys.executable, "-m", "turnout", "train", preset, *cell.options]
    command += ["--out", str(place), "--train.threads", "1"]
    print(f"{time.strftime('%H:%M:%S')} {cell.name}", file=sys.stderr, flush=True)
    started = time.time()
    with (place / "output.txt").open("w") as output:
        code = subprocess.run(
            command, stdout=output, stderr=output, env={**os.environ, "OMP_NUM_THREADS": "1"}
        ).returncode
    if code != 0:
        print(f"{cell.name}: exit {code}, see {place / 'output.txt'}", file=sys.stderr)
        return
    (place / "seconds.json").write_text(json.dumps(time.time() - started))


def _read(place: Path) -> Result | None:
    if not (place / "seconds.json").is_file():
        return None
    lines = (place / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    steps = [record for record in records if record["kind"] == "step"]
    return Result(
        loss=[record["loss"] for record in records if record["kind"] == "evaluation"][-1],
        traffic={
            name: _traffic([step["layers"][name] for step in steps]) for name in steps[0]["layers"]
        },
        speed=statistics.median(step["tokens_per_second"] for step in steps),
        seconds=json.loads((place / "seconds.json").read_text()),
    )


def _traffic(steps: Sequence[Mapping[str, Any]]) -> Traffic:
    """Of one layer's records, a step each."""
    last = steps[-LAST:]
    load = [sum(parts) for parts in zip(*(step["assigned"] for step in last), strict=True)]
    computed = sum(sum(step["assigned"]) * (1 - step["dropped"]) for step in steps)
    return Traffic(
        variation=statistics.pstdev(load) / _mean(load),
        violation=max(load) / _mean(load) - 1,
        dropped=_mean(step["dropped"] for step in last),
        unrouted=sum(step["unrouted"] for step in last) / sum(step["tokens"] for step in last),
        computed=computed / sum(step["tokens"] for step in steps),
    )


def _mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)


def spread(values: Sequence[float], form: str = ".3f") -> str:
    """Mean, and the least and largest where there are several."""
    mean = format(statistics.fmean(values), form)
    if len(values) < 2:
        return mean
    return f"{mean} ({format(min(values), form)} to {format(max(values), form)})"


def by_arm(results: Mapping[Cell, Result]) -> dict[str, list[Result]]:
    """Results of each arm, in the order of seeds."""
    found: dict[str, list[Result]] = {}
    for cell, result in results.items():
        found.setdefault(cell.arm, []).append(result)
    return found


Column = tuple[str, Callable[[Sequence[Result]], str]]
COLUMNS: tuple[Column, ...] = (
    ("held-out loss", lambda rs: spread([r.loss for r in rs], ".4f")),
    ("load CV", lambda rs: spread([r.mean(lambda t: t.variation) for r in rs])),
    ("max violation", lambda rs: spread([r.mean(lambda t: t.violation) for r in rs])),
    ("dropped", lambda rs: spread([r.mean(lambda t: t.dropped) for r in rs], ".1%")),
    ("tokens/s", lambda rs: spread([r.speed for r in rs], ",.0f")),
    ("seconds", lambda rs: spread([r.seconds for r in rs], ".0f")),
    ("seeds", lambda rs: str(len(rs))),
)


def markdown(arms: Mapping[str, Sequence[Result]], columns: Sequence[Column] = COLUMNS) -> str:
    """A table with a row an arm."""
    lines = [
        f"| arm | {' | '.join(name for name, _ in columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for arm, results in arms.items():
        lines.append(f"| {arm} | {' | '.join(show(results) for _, show in columns)} |")
    return "\n".join(lines)


def machine() -> str:
    """What computed, for the page."""
    from turnout.train.machine import processor, versions

    found = ", ".join(f"{name} {version}" for name, version in versions().items())
    cores = f"{processor()}, {os.cpu_count()} cores, one thread a run"
    return f"{time.strftime('%Y-%m-%d')}; {cores}; {found}"
