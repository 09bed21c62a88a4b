"""The routing of held-out text by a run's newest checkpoint, as a file."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from turnout.checkpoint import folders
from turnout.config.errors import UserError, require
from turnout.data import pipeline
from turnout.moe.record import RoutingRecord
from turnout.train.session import load_run, load_tokenizer

Tell = Callable[[int, int], None]


@torch.no_grad()
def record(
    run_folder: Path, path: Path, rows: int | None = None, tell: Tell = lambda done, of: None
) -> RoutingRecord:
    """Write what every sparse layer decides, in evaluation, for held-out rows.

    Args:
        run_folder: of a run with a complete checkpoint, or one of its step folders.
        path: of the file, see ``RoutingRecord.save``.
        rows: how many at most; ``train.eval_rows`` unless given.
        tell: is told of each micro-batch, and how many there are.

    Raises:
        UserError: the folder is not that of a run, its text is not there, or the model is dense.
    """
    checkpoint = folders.latest(Path(run_folder))
    config, model = load_run(checkpoint)
    if config.model.moe is None:
        raise UserError(f"--record: the model of {run_folder} has no sparse layer")
    if rows is not None:
        require(rows >= 1, "--rows", rows, "at least 1")
        config = replace(config, train=replace(config.train, eval_rows=rows))
    batches = pipeline.build(config, load_tokenizer(checkpoint)).validation()
    parts = []
    for number, batch in enumerate(batches, 1):
        routing = model(batch, routing=True).routing
        assert routing is not None
        parts.append(routing)
        tell(number, len(batches))
    found = RoutingRecord.join(parts)
    found.save(path)
    return found
