"""Runs that were trained for a few steps."""

from collections.abc import Callable
from pathlib import Path

import pytest

from turnout.config import io, presets
from turnout.config.train import RunConfig
from turnout.train.session import open_session
from turnout.train.trainer import Trainer

SMALL = {
    "train.batch_rows": "4",
    "train.eval_rows": "4",
    "train.steps": "3",
    "train.eval_every": "3",
    "train.save_every": "3",
    "train.dtype": "float32",
    "train.threads": "1",
    "model.d_model": "16",
    "model.feed_forward.d_ff": "24",
    "model.attention.head_dim": "8",
    "model.length": "64",
    "model.num_layers": "2",
}
SPARSE = {
    "model.moe.num_experts": "4",
    "model.moe.router": "top_k",
    "model.moe.train_capacity_factor": "none",
}
Runs = Callable[..., Path]


def train(config: RunConfig, folder: Path, checkpoint: Path | None = None) -> float:
    """The validation loss after training, from ``checkpoint`` on where one is given."""
    return Trainer.of(open_session(config, checkpoint), folder).run().loss


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, text_folder: Path) -> Runs:
    """A run of ``switch_tiny``, or of its dense twin, trained once for each set of options."""
    folder, made = tmp_path_factory.mktemp("runs"), dict[str, Path]()

    def run(dense: bool = False, **options: str) -> Path:
        key = f"{dense} {sorted(options.items())}"
        if key not in made:
            config = presets.run("switch_tiny", None, dense)
            config = io.override(config, {**SMALL, **({} if dense else SPARSE), **options})
            config = io.override(config, {"data.paths": str(text_folder)})
            made[key] = folder / str(len(made))
            train(config, made[key])
        return made[key]

    return run
