"""What a run recorded: its validation curve, and what each point of it had cost."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from turnout.config.errors import UserError
from turnout.probe.curve import METRICS, records

RESULT = "result.json"
_SLOWEST = 0.05  # tokens a second, which metrics.jsonl rounds to 0.0


@dataclass(frozen=True)
class Track:
    """One run, by evaluation.

    Attributes:
        steps: optimiser steps done.
        losses: validation loss in nats a target; infinity where it was not finite.
        seconds: the training clock: the time of the steps so far. Reading data, evaluations,
            checkpoints and start-up are not in it, and a step that an interruption undid is
            counted once.
        targets: targets of an evaluation.
        evaluating: seconds of all evaluations together.
    """

    steps: tuple[int, ...]
    losses: tuple[float, ...]
    seconds: tuple[float, ...]
    targets: int
    evaluating: float

    def flops(self, step_flops: int) -> tuple[float, ...]:
        """Arithmetic by evaluation, from that of a step."""
        return tuple(float(step * step_flops) for step in self.steps)


@dataclass(frozen=True)
class Outcome:
    """How the process of a run ended; its last attempt where it was interrupted.

    Attributes:
        step: optimiser steps done.
        first_step: steps it began with.
        seconds: wall clock of the process, its imports left out.
        peak_memory: largest resident set of the process in bytes; None where it is unknown.
        failed: why it stopped early because its numbers were no longer finite; "" otherwise.
        at_once: runs trained at once on the machine, this one among them.
    """

    step: int
    first_step: int
    seconds: float
    peak_memory: int | None
    threads: int
    dtype: str
    processor: str
    python: str
    torch: str
    turnout: str
    text_sha256: str
    text: str
    failed: str = ""
    at_once: int = 1


def read_track(run: Path) -> Track:
    """The evaluations in ``metrics.jsonl`` of a run folder.

    Raises:
        UserError: the file is missing, or holds no evaluation.
    """
    path = Path(run) / METRICS
    if not path.is_file():
        raise UserError(f"{path} is missing; remove {run} and type the command again")
    return track_of(records(path), str(path))


def track_of(lines: Iterable[Mapping[str, Any]], source: str) -> Track:
    """``read_track`` of records; of several evaluations at one step the last one counts.

    Raises:
        UserError: there is no evaluation.
    """
    clock, tokens = {0: 0.0}, 0
    evaluations: dict[int, Mapping[str, Any]] = {}
    for record in lines:
        step = int(record["step"])
        if record.get("kind") == "step":
            rate = max(float(record["tokens_per_second"]), _SLOWEST)
            clock[step] = clock[max(clock)] + (int(record["tokens"]) - tokens) / rate
            tokens = int(record["tokens"])
        elif record.get("kind") == "evaluation":
            evaluations[step] = record
    evaluations.pop(0, None)  # nothing is spent there, so nothing can be divided by it
    if not evaluations:
        raise UserError(f"{source} holds no evaluation; remove the run and type the command again")
    steps = sorted(evaluations)
    lost = [step for step in steps if step not in clock]
    if lost:
        raise UserError(f"{source} lacks step {lost[0]}; remove the run and type the command again")
    return Track(
        steps=tuple(steps),
        losses=tuple(_loss(evaluations[step]["loss"]) for step in steps),
        seconds=tuple(clock[step] for step in steps),
        targets=int(evaluations[steps[-1]]["targets"]),
        evaluating=math.fsum(float(record["seconds"]) for record in evaluations.values()),
    )


def read_outcome(run: Path) -> Outcome | None:
    """How a run ended; None if it has not, or if what says so is broken."""
    try:
        table = json.loads((Path(run) / RESULT).read_text(encoding="utf-8"))
        known = {field.name for field in fields(Outcome)}
        return Outcome(**{name: value for name, value in table.items() if name in known})
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def write_outcome(run: Path, outcome: Outcome) -> None:
    """Write ``result.json`` in one go: it is there whole, or not."""
    partial = Path(run) / f"{RESULT}.partial"
    partial.write_text(json.dumps(asdict(outcome), indent=1) + "\n", encoding="utf-8")
    partial.replace(Path(run) / RESULT)


def _loss(value: Any) -> float:
    return math.inf if value is None else float(value)
