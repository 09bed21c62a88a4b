"""Saving a run's state: never weights that are not finite, and no more checkpoints than needed."""

from pathlib import Path

from turnout.checkpoint import folders
from turnout.checkpoint.write import save
from turnout.config.train import RunConfig
from turnout.data.pipeline import Data
from turnout.data.tokenizers.load import save as keep_tokenizer
from turnout.train.card import CARD, model_card
from turnout.train.guards import all_finite
from turnout.train.state import TrainState, export

KEEP_CHECKPOINTS = 2


def save_state(run: Path, state: TrainState, config: RunConfig, data: Data) -> Path | None:
    """Write the checkpoint of this step, and prune the run to its newest two and its best.

    Args:
        run: the run's folder.
        data: what the run is trained on; its tokenizer is kept in the run's folder.

    Returns:
        The step's folder; None, with nothing written or pruned, if a tensor is not finite.
    """
    tensors, meta = export(state, config)
    if not all_finite(tensors.values()):
        return None
    folder = folders.step_folder(run, state.step)
    folders.clear(folder)
    keep_tokenizer(data.tokenizer, run)
    source = {"text": data.summary.sha256, "tokenizer": data.tokenizer.fingerprint}
    card = model_card(state, config, data.summary)
    save(folder, tensors, {**meta, **source}, {CARD: card})
    best = state.control.best
    folders.prune(run, KEEP_CHECKPOINTS, None if best is None else best.step)
    return folder
