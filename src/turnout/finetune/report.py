"""What a fine-tuning run says of itself, when it is over or later."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from turnout.checkpoint import folders
from turnout.checkpoint.read import load_meta
from turnout.checkpoint.write import replace_file
from turnout.config.errors import UserError
from turnout.convert.api import load
from turnout.data import pipeline
from turnout.finetune.drift import Drift, routing_drift
from turnout.finetune.overfitting import Overfitting, overfitting
from turnout.probe.curve import read_curve
from turnout.train.control import Control
from turnout.train.session import load_run, load_tokenizer, saved_config

REPORT = "finetune.json"


@dataclass(frozen=True)
class Report:
    """Of a run's newest checkpoint.

    Attributes:
        folder: of the run.
        best: the checkpoint with the lowest held-out loss.
        overfitting: None where nothing was evaluated.
        drift: how far the routing went from that of the model that the run began with.
    """

    folder: Path
    best: Path
    overfitting: Overfitting | None
    drift: tuple[Drift, ...]

    def save(self) -> Path:
        """Writes ``finetune.json`` into the run's folder."""
        path = self.folder / REPORT
        content = {
            "best": self.best.name,
            "overfitting": None if self.overfitting is None else asdict(self.overfitting),
            "drift": [asdict(layer) for layer in self.drift],
        }
        replace_file(path, (json.dumps(content, indent=1) + "\n").encode())
        return path

    def lines(self) -> list[str]:
        """For people."""
        found = [] if self.overfitting is None else [self.overfitting.line]
        if self.drift:
            found += ["routing against the model that it began with, on held-out text:"]
            found += [
                f"  {each.layer:<16} same experts {each.same:7.2%}, load moved {each.moved:7.2%}, "
                f"entropy of the load {each.entropy_before:.2f} -> {each.entropy_after:.2f} bits"
                for each in self.drift
            ]
        return found


def report(folder: Path) -> Report:
    """Reads the run's records, and lets both models read its held-out text.

    Raises:
        UserError: the folder is no run that began with another model, or that model or the text is
            not there any more.
    """
    checkpoint = folders.latest(folder)
    config = saved_config(checkpoint)
    if not config.start.path:
        raise UserError(f"{folder}: began with fresh weights (start.path is empty): no fine-tuning")
    config, after = load_run(checkpoint)
    data = pipeline.build(config, load_tokenizer(checkpoint))
    before = load(config.start.path, dtype=after.dtype)
    return Report(
        folder,
        _best(folder, checkpoint),
        overfitting(read_curve(folder), config.train),
        routing_drift(before, after, data.validation()) if before.sparse_layers() else (),
    )


def _best(folder: Path, checkpoint: Path) -> Path:
    best = Control.from_json(load_meta(checkpoint)["control"]).best
    found = checkpoint if best is None else folders.step_folder(folder, best.step)
    return found if found.is_dir() else checkpoint
