"""Saving a run's state: never weights that are not finite, and no more checkpoints than needed."""

from pathlib import Path

from turnout.checkpoint import folders
from turnout.checkpoint.ranks import Ranks
from turnout.checkpoint.saver import Saver
from turnout.config.train import RunConfig
from turnout.data.pipeline import Data
from turnout.data.tokenizers.load import save as keep_tokenizer
from turnout.train.card import CARD, model_card
from turnout.train.guards import all_finite
from turnout.train.parts import PartOf, whole
from turnout.train.state import TrainState, export, held

KEEP_CHECKPOINTS = 2


def save_state(
    run: Path,
    state: TrainState,
    config: RunConfig,
    data: Data,
    saver: Saver | None = None,
    part_of: PartOf = whole,
) -> Path | None:
    """Write the checkpoint of this step, and prune the run to its newest two and its best.

    Args:
        run: the run's folder.
        data: what the run is trained on; its tokenizer is kept in the run's folder.
        saver: the processes that save together; one that saves in the background may still be
            writing when this returns.
        part_of: which blocks of the weights this process holds.

    Returns:
        The step's folder; None, with nothing written or pruned, if a tensor is not finite.
    """
    saver = Saver() if saver is None else saver
    tensors, meta = export(state, config)
    parts = held(tensors, part_of)
    if not _agreed(all_finite(part.tensor for part in parts.values()), saver.ranks):
        return None
    folder = folders.step_folder(run, state.step)
    source = {"text": data.summary.sha256, "tokenizer": data.tokenizer.fingerprint}
    best = state.control.best
    also = None if best is None else best.step
    texts = {CARD: model_card(state, config, data.summary)}
    if saver.ranks.rank == 0:
        folders.clear(folder)
        keep_tokenizer(data.tokenizer, run)
    saver.save(
        folder,
        parts,
        {**meta, **source},
        texts,
        lambda: folders.prune(run, KEEP_CHECKPOINTS, also),
    )
    return folder


def _agreed(fine: bool, ranks: Ranks) -> bool:
    """Whether it is so on all ranks."""

    def judge(messages: list[str]) -> list[str]:
        return [str(all(message == "True" for message in messages))] * len(messages)

    return ranks.consult(lambda: str(fine), judge) == "True"
