"""Small protocols, and runs whose curves are given instead of trained."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from turnout.compare.process import RUN_FILE, Told
from turnout.compare.track import Outcome, write_outcome
from turnout.config import io
from turnout.config.attention import AttentionConfig
from turnout.config.compare import CompareConfig, Protocol, resolved
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.model import DecoderOnlyConfig
from turnout.config.moe import MoEConfig, Placement
from turnout.config.train import AdamWConfig, RunConfig, TrainConfig

Curve = Callable[[RunConfig], Sequence[float]]


def run(**changes: object) -> RunConfig:
    """Two layers of width 8, the second sparse with 4 experts; 4 steps, evaluated at each."""
    model = DecoderOnlyConfig(
        vocab_size=384,
        d_model=8,
        num_layers=2,
        attention=AttentionConfig(2, 4),
        feed_forward=FeedForwardConfig(16),
        moe=MoEConfig(4, placement=Placement(2)),
        length=32,
    )
    train = TrainConfig(steps=4, batch_rows=2, eval_rows=2, eval_every=1, save_every=2)
    fields = {
        "model": model,
        "train": train,
        "optimizer": AdamWConfig(1e-3),
        **changes,
    }
    return RunConfig(**fields)  # type: ignore[arg-type]


def protocol(**compare: object) -> Protocol:
    """Two rates and two seeds."""
    given = {"learning_rates": (1e-3, 1e-2), "seeds": 2, **compare}
    return resolved(run(), CompareConfig(**given))  # type: ignore[arg-type]


def outcome(**changes: object) -> Outcome:
    """Of a run of four steps."""
    fields = {
        "step": 4,
        "first_step": 0,
        "seconds": 2.0,
        "peak_memory": 300_000_000,
        "threads": 1,
        "dtype": "float32",
        "processor": "some processor, 2 processors",
        "python": "3.11.7",
        "torch": "2.13.0",
        "turnout": "0.1.0",
        "text_sha256": "ab" * 32,
        "text": "some text",
        **changes,
    }
    return Outcome(**fields)  # type: ignore[arg-type]


def metrics(losses: Sequence[float | None], rate: float = 10.0) -> str:
    """A step of 64 tokens and an evaluation for each loss, at ``rate`` tokens a second."""
    lines = []
    for step, loss in enumerate(losses, 1):
        lines.append({"kind": "step", "step": step, "tokens": 64 * step, "tokens_per_second": rate})
        lines.append(
            {"kind": "evaluation", "step": step, "loss": loss, "targets": 50, "seconds": 0.5}
        )
    return "".join(json.dumps(line) + "\n" for line in lines)


class Launcher:
    """Writes what a trainer would have written; keeps the names of the runs it was asked for."""

    def __init__(self, curve: Curve, **changes: object) -> None:
        self.launched: list[str] = []
        self._curve, self._changes = curve, changes

    def __call__(self, folder: Path, lock: int, tell: Callable[[Told], None]) -> None:
        self.launched.append(folder.name)
        config = io.load_toml(folder / RUN_FILE)
        losses = self._curve(config)
        tell(Told(0))
        for step, loss in enumerate(losses, 1):
            tell(Told(step, loss))
        (folder / "metrics.jsonl").write_text(metrics(losses))
        write_outcome(folder, outcome(**self._changes))
