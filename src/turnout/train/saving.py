"""Saving a run's state: never weights that are not finite, and no more checkpoints than needed."""

from pathlib import Path

from turnout.checkpoint import folders
from turnout.checkpoint.saver import Saver
from turnout.config.train import RunConfig
from turnout.data.pipeline import Data
from turnout.data.tokenizers.load import save as keep_tokenizer
from turnout.train.card import CARD, model_card
from turnout.train.guards import all_finite
from turnout.train.ranks import first
from turnout.train.state import TrainState, export

KEEP_CHECKPOINTS = 2


def save_state(
    run: Path, state: TrainState, config: RunConfig, data: Data, saver: Saver | None = None
) -> Path | None:
    """Write the checkpoint of this step, and prune the run to its newest two and its best.

    Args:
        run: the run's folder.
        data: what the run is trained on; its tokenizer is kept in the run's folder.
        saver: of the state's ranks; one that works in the background may still be writing when
            this returns.

    All ranks call it, each with its state.

    Returns:
        The step's folder; None, with nothing written or pruned, if a tensor is not finite.
    """
    parts, meta = export(state, config)
    finite = all_finite(part.tensor for part in parts.values())
    if state.ranks.blame("" if finite else "a weight is not finite"):
        return None
    folder = folders.step_folder(run, state.step)
    source = {"text": data.summary.sha256, "tokenizer": data.tokenizer.fingerprint}
    card = model_card(state, config, data.summary)
    best = state.control.best

    def kept() -> None:
        folders.prune(run, KEEP_CHECKPOINTS, None if best is None else best.step)

    first(state.ranks, lambda: _prepared(folder, data, run))
    saver = Saver(state.ranks.messages) if saver is None else saver
    saver.save(folder, parts, {**meta, **source}, {CARD: card}, kept)
    return folder


def _prepared(folder: Path, data: Data, run: Path) -> None:
    folders.clear(folder)
    keep_tokenizer(data.tokenizer, run)
