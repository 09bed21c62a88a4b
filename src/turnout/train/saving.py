"""Saving a run's state: never weights that are not finite, and no more checkpoints than needed."""

from pathlib import Path

from turnout.checkpoint import folders
from turnout.checkpoint.write import save
from turnout.config.train import RunConfig
from turnout.data.tokenizers import Tokenizer
from turnout.data.tokenizers.load import save as keep_tokenizer
from turnout.train.guards import all_finite
from turnout.train.state import TrainState, export

KEEP_CHECKPOINTS = 2


def save_state(
    run: Path, state: TrainState, config: RunConfig, text: str, tokenizer: Tokenizer
) -> Path | None:
    """Write the checkpoint of this step, and prune the run to its newest two and its best.

    Args:
        run: the run's folder.
        text: SHA-256 of the text that the run is trained on.
        tokenizer: its tokenizer, which the run keeps.

    Returns:
        The step's folder; None, with nothing written or pruned, if a tensor is not finite.
    """
    tensors, meta = export(state, config)
    if not all_finite(tensors.values()):
        return None
    folder = folders.step_folder(run, state.step)
    folders.clear(folder)
    keep_tokenizer(tokenizer, run)
    save(folder, tensors, {**meta, "text": text, "tokenizer": tokenizer.fingerprint})
    best = state.control.best
    folders.prune(run, KEEP_CHECKPOINTS, None if best is None else best.step)
    return folder
