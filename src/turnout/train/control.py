"""What the loop decides by, beside the weights: plain numbers, kept in every checkpoint."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from turnout.train.alarms import LayerWatch


@dataclass(frozen=True)
class Best:
    """The evaluation with the lowest loss so far; its checkpoint is kept."""

    step: int
    loss: float


@dataclass(frozen=True)
class Control:
    """The state of the loop.

    Attributes:
        batch: the index of the next batch; the step, and what rollbacks passed over.
        skipped: steps skipped in a row, up to now.
        rollbacks: how often the run went back to a checkpoint.
        best: the best evaluation.
        watches: what the alarms remember, by layer.
        coefficients: loss coefficients that alarms changed.
    """

    batch: int = 0
    skipped: int = 0
    rollbacks: int = 0
    best: Best | None = None
    watches: Mapping[str, LayerWatch] = field(default_factory=dict)
    coefficients: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return {
            "batch": self.batch,
            "skipped": self.skipped,
            "rollbacks": self.rollbacks,
            "best": None if self.best is None else asdict(self.best),
            "watches": {name: _plain(watch) for name, watch in self.watches.items()},
            "coefficients": dict(self.coefficients),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Control":
        """Raises KeyError or TypeError on anything malformed."""
        return Control(
            batch=int(data["batch"]),
            skipped=int(data["skipped"]),
            rollbacks=int(data["rollbacks"]),
            best=None if data["best"] is None else Best(**data["best"]),
            watches={name: _watch(table) for name, table in data["watches"].items()},
            coefficients=dict(data["coefficients"]),
        )


def _plain(watch: LayerWatch) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(watch).items()
    }


def _watch(table: Mapping[str, Any]) -> LayerWatch:
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in table.items()
    }
    return LayerWatch(**values)
