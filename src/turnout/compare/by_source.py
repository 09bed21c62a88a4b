"""Sparse against dense, source by source: how much sooner each is learnt.

The text of a run that is a mixture, such as one of languages, is evaluated source by source. The
speed-up of each is that of the whole (``compare.speed``), and the picture is Switch Transformers'
histogram over languages (2101.03961, section 4.3 and figure 8).
"""

import json
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from turnout.checkpoint import folders
from turnout.checkpoint.read import load_meta
from turnout.compare.speed import Ratio, speed_up
from turnout.config.errors import UserError
from turnout.probe.curve import METRICS, records
from turnout.probe.style import BLUE, Chart, altair, panel, save

PICTURE, FIGURES = "by-source.png", "by-source.json"
LENGTHS = ("length", "encoder_length", "decoder_length")  # of a model's rows
WIDTH = 0.1  # of a bar of the histogram


@dataclass(frozen=True)
class SourceTrack:
    """Losses on one source at the evaluations of a run, in nats a target."""

    steps: tuple[int, ...]
    losses: tuple[float, ...]


@dataclass(frozen=True)
class BySource:
    """A dense and a sparse run of the same sources.

    Attributes:
        speed_ups: what the dense run spends to its final loss over what the sparse one spends to
            the same, in steps, by source.
        dense, sparse: their last losses, by source.
    """

    speed_ups: Mapping[str, Ratio]
    dense: Mapping[str, float]
    sparse: Mapping[str, float]

    @property
    def reached(self) -> list[float]:
        """The speed-ups of sources where the sparse run reached the dense one's loss."""
        return [each.value for each in self.speed_ups.values() if each.value is not None]

    @property
    def line(self) -> str:
        """Minimum and mean, and how many never came there."""
        missed = len(self.speed_ups) - len(self.reached)
        never = f"; not reached by {missed} of {len(self.speed_ups)}" if missed else ""
        if not self.reached:
            return f"speed-up by source: none was reached{never}"
        return (
            f"speed-up by source: minimum {min(self.reached):.2f}, mean "
            f"{statistics.fmean(self.reached):.2f}, maximum {max(self.reached):.2f}{never}"
        )

    def save(self, folder: Path) -> Path:
        """Writes the figures as JSON."""
        rows = {
            name: {
                "speed_up": ratio.value,
                "at_least": ratio.at_least,
                "dense": self.dense[name],
                "sparse": self.sparse[name],
            }
            for name, ratio in self.speed_ups.items()
        }
        path = folder / FIGURES
        path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        return path


def source_tracks(run: Path) -> dict[str, SourceTrack]:
    """The evaluations of a run, source by source; a step that appears again counts once.

    Raises:
        UserError: the run has no records, or no sources.
    """
    path = run / METRICS
    if not path.is_file():
        raise UserError(f"{path} is missing; give the folder of a run, which has it")
    found: dict[str, dict[int, float]] = {}
    for record in records(path):
        for name, loss in (record.get("sources") or {}).items():
            found.setdefault(name, {})[int(record["step"])] = _loss(loss)
    if not found:
        raise UserError(f"{run}: was not evaluated by source; train it on a data.mixture")
    return {
        name: SourceTrack(tuple(sorted(track)), tuple(track[step] for step in sorted(track)))
        for name, track in found.items()
    }


def by_source(dense: Path, sparse: Path) -> BySource:
    """Holds two runs against each other.

    Raises:
        UserError: they have different sources, or their steps are not on the same text and rows.
    """
    one, other = source_tracks(dense), source_tracks(sparse)
    _check_alike(dense, sparse)
    if one.keys() != other.keys():
        apart = sorted(one.keys() ^ other.keys())
        raise UserError(f"{dense} and {sparse} have different sources: {', '.join(apart)}")
    ratios = {
        name: speed_up(
            tuple(map(float, track.steps)),
            track.losses,
            tuple(map(float, other[name].steps)),
            other[name].losses,
        )
        for name, track in one.items()
    }
    last = [{name: track.losses[-1] for name, track in run.items()} for run in (one, other)]
    return BySource(ratios, *last)


def _check_alike(dense: Path, sparse: Path) -> None:
    """Steps are compared, so they must be steps on as many rows of the same text."""
    one, other = (_steps(load_meta(folders.latest(run))) for run in (dense, sparse))
    for what in one:
        if one[what] != other[what]:
            raise UserError(f"{dense} and {sparse} differ in {what}: their steps are not the same")


def _steps(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What the steps of a run are on."""
    config = meta["config"]
    data = {name: value for name, value in config["data"].items() if name != "cache"}
    return {
        "text": meta.get("text"),
        "tokenizer": meta.get("tokenizer"),
        "length": [config["model"].get(name) for name in LENGTHS],
        "train.batch_rows": config["train"]["batch_rows"],
        "objective": config["objective"],
        "data": data,
    }


def draw(found: BySource, folder: Path) -> Path:
    """The histogram of speed-ups, and each source by itself.

    Raises:
        UserError: altair is not installed.
    """
    return save(_histogram(found), folder / PICTURE)


def bars(values: Sequence[float]) -> dict[float, int]:
    """How many of ``values`` each bar counts, by where it begins."""
    return dict(sorted(Counter(math.floor(v / WIDTH + 1e-9) * WIDTH for v in values).items()))


def _histogram(found: BySource) -> Chart:
    alt = altair()
    counted = [
        {"from": begin, "to": begin + WIDTH, "none": 0, "sources": count}
        for begin, count in bars(found.reached).items()
    ]
    named = [
        {"source": name, "speed-up": ratio.value or 0, "shown": ratio.text()}
        for name, ratio in found.speed_ups.items()
    ]
    histogram = (
        alt.Chart(alt.Data(values=counted))
        .mark_bar(color=BLUE)
        .encode(
            x=alt.X("from:Q", title="speed-up in steps", scale=alt.Scale(zero=False)),
            x2="to:Q",
            y=alt.Y("sources:Q", title="sources", axis=alt.Axis(tickMinStep=1)),
            y2="none:Q",
        )
        .properties(width=470, height=220)
    )
    each = alt.Chart(alt.Data(values=named)).encode(
        y=alt.Y("source:N", title=None, sort="-x"),
        x=alt.X("speed-up:Q", title="speed-up in steps"),
    )
    text = each.mark_text(align="left", dx=6).encode(text="shown:N")
    rows = (each.mark_bar(color=BLUE) + text).properties(width=470)
    return panel("Sparse against dense, source by source", [found.line], [histogram, rows])


def _loss(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.inf
