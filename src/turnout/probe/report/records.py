"""What a run recorded, as columns short enough for a page, whatever the length of the run.

Nothing here believes the file: a line that is no record is left out, a number that is missing or
not finite is nan. Axes: N recorded steps, E experts.
"""

import json
import math
from array import array
from collections.abc import Iterator, Mapping, MutableSequence, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from turnout.config.errors import UserError
from turnout.probe.curve import METRICS
from turnout.probe.report.loads import LoadHistory

STARTS: Final = "starts.jsonl"
SAMPLES: Final = "samples.json"
SCALARS: Final = ("loss", "bits", "learning_rate", "gradient_norm", "tokens", "tokens_per_second")
LAYER_SCALARS: Final = ("entropy", "dropped", "balance")
MOST_EVENTS: Final = 500
Column = MutableSequence[float]


@dataclass(frozen=True)
class Event:
    """Something that happened at a step: an alarm, a skipped step, a resumption."""

    step: int
    name: str
    layer: str
    text: str


@dataclass
class LayerHistory:
    """One sparse layer: its scalars by recorded step, and its loads."""

    scalars: dict[str, Column]
    loads: LoadHistory


@dataclass
class History:
    """The columns of ``metrics.jsonl``; all of a kind have the same length.

    Attributes:
        step: the recorded steps, increasing; a step recorded twice counts once, the last time.
        seconds: time spent on steps and evaluations up to each of them, lost ones included.
        scalars: a column for each of ``SCALARS``.
        terms: every term of the objective, unweighted.
        layers: the sparse layers in order.
        evaluations: their records, by step.
        events: at most ``MOST_EVENTS``; ``more_events`` counts the rest.
        saves: steps with a checkpoint.
    """

    step: MutableSequence[int] = field(default_factory=lambda: array("q"))
    seconds: Column = field(default_factory=lambda: array("d"))
    scalars: dict[str, Column] = field(
        default_factory=lambda: {name: array("d") for name in SCALARS}
    )
    terms: dict[str, Column] = field(default_factory=dict)
    layers: dict[str, LayerHistory] = field(default_factory=dict)
    evaluations: dict[int, Mapping[str, float]] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    more_events: int = 0
    saves: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        """Recorded steps."""
        return len(self.step)

    def last_step(self) -> int:
        """The last step that anything was recorded of."""
        return max([*self.step[-1:], *self.evaluations], default=0)

    def evaluation(self) -> Mapping[str, float]:
        """The last evaluation; empty if there is none."""
        return self.evaluations[max(self.evaluations)] if self.evaluations else {}


def read_history(run: Path) -> History:
    """The records of a run folder, read once from the first line to the last.

    Raises:
        UserError: there is no such file, or no step and no evaluation in it.
    """
    path = Path(run) / METRICS
    if not path.is_file():
        raise UserError(f"{path} is missing; give the folder of a run, which has it")
    reader = _Reader()
    for record in json_lines(path):
        reader.take(record)
    if not reader.history.step and not reader.history.evaluations:
        raise UserError(f"{path} holds no step; train the run first")
    return reader.history


def json_lines(path: Path) -> Iterator[Mapping[str, Any]]:
    """The objects in a file of one JSON object a line; broken lines are left out."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue  # the last line of a run that was killed while writing it
            if isinstance(record, dict):
                yield record


def number(value: Any) -> float:
    """``value`` as a float; nan for what is missing, no number or not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value) if math.isfinite(value) else math.nan
    except OverflowError:
        return math.nan


class _Reader:
    """Takes records in the order of the file."""

    def __init__(self) -> None:
        self.history = History()
        self._spent = 0.0
        self._tokens = 0.0

    def take(self, record: Mapping[str, Any]) -> None:
        step = record.get("step")
        if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < 2**62:
            return
        match record.get("kind"):
            case "step":
                self._step(step, record)
            case "evaluation":
                self._evaluation(step, record)
            case "checkpoint":
                self.history.saves.append(step)
            case "event":
                self._event(step, record.get("name"), record.get("layer"), record.get("text"))

    def _step(self, step: int, record: Mapping[str, Any]) -> None:
        history = self.history
        self._forget_from(step)
        values = {name: number(record.get(name)) for name in SCALARS}
        self._spent += self._duration(step, values)
        history.step.append(step)
        history.seconds.append(self._spent)
        for name, value in values.items():
            history.scalars[name].append(value)
        terms = _table(record.get("terms"))
        _append(history.terms, {name: number(value) for name, value in terms.items()}, len(history))
        layers = _table(record.get("layers"))
        for name in {**history.layers, **layers}:
            self._layer(step, name, _table(layers.get(name)))
        skipped = record.get("skipped")
        if skipped:
            self._event(step, "skip", None, skipped)

    def _layer(self, step: int, name: str, record: Mapping[str, Any]) -> None:
        layer = self.history.layers.get(name)
        if layer is None:
            layer = LayerHistory({each: array("d") for each in LAYER_SCALARS}, LoadHistory())
            self.history.layers[name] = layer
        values = {each: number(record.get(each)) for each in LAYER_SCALARS}
        _append(layer.scalars, values, len(self.history))
        assigned = record.get("assigned")
        if isinstance(assigned, list):
            layer.loads.add(step, _numbers(assigned))

    def _duration(self, step: int, values: Mapping[str, float]) -> float:
        """Seconds of a step: its tokens over its rate."""
        seen, rate = values["tokens"], values["tokens_per_second"]
        tokens = seen - self._tokens if self.history.step else seen / max(step, 1)
        if math.isfinite(seen):
            self._tokens = seen
        return tokens / rate if tokens > 0 and rate > 0 else 0.0

    def _forget_from(self, step: int) -> None:
        """Drops steps that a run which went back has done again; their time stays spent."""
        history = self.history
        while history.step and history.step[-1] >= step:
            history.step.pop()
        kept = len(history)
        del history.seconds[kept:]
        for column in history.scalars.values():
            del column[kept:]
        for column in history.terms.values():
            del column[kept:]
        for layer in history.layers.values():
            for column in layer.scalars.values():
                del column[kept:]
        seen = history.scalars["tokens"][-1] if kept else 0.0
        self._tokens = seen if math.isfinite(seen) else self._tokens

    def _evaluation(self, step: int, record: Mapping[str, Any]) -> None:
        self.history.evaluations[step] = {
            name: number(value) for name, value in record.items() if not isinstance(value, dict)
        }
        seconds = number(record.get("seconds"))
        self._spent += seconds if seconds > 0 else 0.0

    def _event(self, step: int, name: Any, layer: Any, text: Any) -> None:
        history = self.history
        if name == "skip" and any(
            event.step == step and event.name == "skip" for event in history.events[-3:]
        ):
            return
        if len(history.events) >= MOST_EVENTS:
            history.more_events += 1
            return
        history.events.append(
            Event(step, str(name), "" if layer is None else str(layer), str(text or ""))
        )


def _numbers(values: list[Any]) -> Sequence[float]:
    """A list as floats, at once where they are all numbers."""
    try:
        return array("d", values)
    except (TypeError, OverflowError):
        return [number(value) for value in values]


def _table(value: Any) -> dict[str, Any]:
    """``value`` if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def _append(columns: dict[str, Column], values: Mapping[str, float], length: int) -> None:
    """Makes every column ``length`` long, this step's entry last; nan where there is none."""
    for name in values.keys() - columns.keys():
        columns[name] = array("d")
    for name, column in columns.items():
        column.extend([math.nan] * (length - 1 - len(column)))
        column.append(values.get(name, math.nan))
