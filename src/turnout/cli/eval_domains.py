"""``turnout eval --by-domain``: the held-out text of each source, or of each path, by itself."""

import math
from dataclasses import replace
from pathlib import Path

from turnout import objectives
from turnout.cli.build_progress import build_progress
from turnout.config import io
from turnout.config.errors import UserError
from turnout.config.train import RunConfig
from turnout.data import pipeline
from turnout.data.batch import Batch
from turnout.data.pipeline import Data
from turnout.data.tokenizers import Tokenizer
from turnout.evaluate.report import aligned, number
from turnout.train.evaluate import evaluate
from turnout.train.hooks.figures import bits_unit
from turnout.train.session import load_run, load_tokenizer, saved_config

HEAD = ("domain", "targets", "bytes", "loss", "perplexity")


def evaluate_domains(folder: Path, paths: list[str], dotted: dict[str, str]) -> int:
    """Print loss, perplexity and bits per byte of each domain.

    Raises:
        UserError: there are no domains: one path, or none and no mixture.
    """
    config = io.override(saved_config(folder), dotted)
    if not paths and config.data.mixture is None:
        raise UserError("--by-domain: the run has no mixture; give each domain's path to --data")
    if paths:
        config = replace(config, data=replace(config.data, paths=tuple(paths), mixture=None))
    config, model = load_run(folder, config)
    tokenizer = load_tokenizer(folder, config)
    objective = objectives.build(config.losses, config.model)
    rows = [(*HEAD, bits_unit(config))]
    for name, batches in _domains(config, tokenizer, paths).items():
        found = evaluate(model, objective, batches)
        rows.append(
            (
                *(name, f"{found.targets:,}", f"{found.bytes:,}", number(found.loss)),
                *(number(_perplexity(found.loss)), number(found.bits)),
            )
        )
    print(aligned(rows, left=1))
    return 0


def _domains(config: RunConfig, tokenizer: Tokenizer, paths: list[str]) -> dict[str, list[Batch]]:
    """The held-out batches of each domain."""
    if not paths:
        data = _built(config, tokenizer)
        return {
            name: [batch for batch in data.validation() if _of(batch) == number]
            for number, name in enumerate(data.source_names)
        }
    return {
        path: _built(
            replace(config, data=replace(config.data, paths=(path,))), tokenizer
        ).validation()
        for path in dict.fromkeys(paths)
    }


def _built(config: RunConfig, tokenizer: Tokenizer) -> Data:
    return pipeline.build(config, tokenizer, build_progress())


def _of(batch: Batch) -> int:
    return -1 if batch.labels is None else int(batch.labels[0])


def _perplexity(loss: float) -> float:
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
