"""``turnout distill --gain``: the share of a teacher's gain that its students keep."""

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from turnout.checkpoint import folders
from turnout.checkpoint.read import load_meta
from turnout.cli.distill import with_data
from turnout.config.errors import UserError
from turnout.convert.api import contents, load
from turnout.convert.folder import is_foreign
from turnout.convert.hub import located
from turnout.data import pipeline
from turnout.data.pipeline import Data
from turnout.finetune.gain import Kept, RowLoss, gain_kept, row_loss
from turnout.train.session import load_tokenizer, tokenizer_of
from turnout.train.teacher import same_tokens


def tell_gain(options: argparse.Namespace) -> int:
    """Lets all models read the teacher's held-out text, and prints a table.

    Raises:
        UserError: a model is not there, or reads other tokens.
    """
    if options.dense is None:
        raise UserError("--dense: required with --gain; the run that the teacher is better than")
    opened = contents(options.teacher)
    if not opened.trained and not options.data:
        raise UserError(f"--data: required; {options.teacher} does not say what it read")
    config = with_data(opened.run, options.data)
    data = pipeline.build(config, tokenizer_of(options.teacher, config))
    students = [*options.gain, *([options.control] if options.control else [])]
    losses = {path: _losses(path, data) for path in (options.teacher, options.dense, *students)}
    teacher, dense = losses[options.teacher], losses[options.dense]
    kept = gain_kept(teacher, dense, {path: losses[path] for path in students})
    Console().print(_table(options, losses, kept))
    for path in losses:
        if not _same_text(path, data):
            print(
                f"note: {path} was trained on other text, and may have read what is held out here"
            )
    return 0


def _losses(path: str, data: Data) -> RowLoss:
    same_tokens(path, data, load_tokenizer)
    model = load(path)
    wanted: Any = data.run.model
    if (model.config.kind, model.config.vocab_size) != (wanted.kind, wanted.vocab_size):
        raise UserError(
            f"{path} is a {model.config.kind} of {model.config.vocab_size} tokens, must be a "
            f"{wanted.kind} of {wanted.vocab_size} as the teacher is: all read the same rows"
        )
    return row_loss(model, data.validation())


def _same_text(path: str, data: Data) -> bool:
    """Whether a run held out what is held out here."""
    folder = located(path)
    if is_foreign(folder):
        return False
    meta = load_meta(folders.latest(Path(folder)))
    share = meta["config"]["data"]["validation_share"]
    return meta.get("text") == data.summary.sha256 and share == data.run.data.validation_share


def _table(options: argparse.Namespace, losses: dict[str, RowLoss], kept: dict[str, Kept]) -> Table:
    rows = len(losses[options.teacher].nats)
    table = Table(title=f"held-out text of {options.teacher}: {rows} rows")
    for heading in ("model", "nats a target", "share of the gain", "95% of rows"):
        table.add_column(heading)
    table.add_row(f"teacher {options.teacher}", f"{losses[options.teacher].mean:.4f}", "100%", "")
    table.add_row(f"dense {options.dense}", f"{losses[options.dense].mean:.4f}", "0%", "")
    for name, each in kept.items():
        what = "control" if name == options.control else "student"
        interval = f"{each.low:.1%} to {each.high:.1%}"
        if each.undecided:
            interval += f"; without a gain in {each.undecided:.1%} of the draws"
        table.add_row(f"{what} {name}", f"{each.loss:.4f}", f"{each.share:.1%}", interval)
    return table
