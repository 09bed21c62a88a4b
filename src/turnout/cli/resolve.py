"""From preset, TOML file and options to one resolved configuration. Imports no torch."""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from turnout.cli.arguments import Parser
from turnout.config import io, presets
from turnout.config.errors import UserError
from turnout.config.train import RunConfig

DEFAULT_PRESET = "switch_demo"


def add_options(parser: Parser, dense: str = "the dense twin, for comparison") -> None:
    """What chooses a configuration; ``dense`` is the help of ``--dense``."""
    parser.add_argument("preset", nargs="?", metavar="PRESET", help=f"default {DEFAULT_PRESET}")
    parser.add_argument("--objective", metavar="causal|span", help="the form of the preset")
    parser.add_argument("--dense", action="store_true", help=dense)
    parser.add_argument("--router", metavar="NAME", help="another kind of router")
    parser.add_argument("--optimizer", metavar="NAME", help="adamw or adafactor, as it comes")
    parser.add_argument(
        "--schedule", metavar="NAME", help="cosine, wsd, constant or inverse_sqrt, as it comes"
    )
    parser.add_argument(
        "--data", nargs="+", metavar="PATH", help="files and folders; default: Python's library"
    )
    parser.add_argument("--config", metavar="FILE.toml", help="values over those of the preset")


def resolve(options: argparse.Namespace, dotted: Mapping[str, str]) -> RunConfig:
    """Preset, then file, then ``--dense``, ``--router``, ``--data``, kinds and dotted options.

    Raises:
        UserError: a name or value that cannot be, with the nearest name.
    """
    table = None if options.config is None else io.load_table(options.config)
    return resolve_over(table, options, dotted)


def resolve_over(
    table: Mapping[str, Any] | None, options: argparse.Namespace, dotted: Mapping[str, str]
) -> RunConfig:
    """``resolve`` with the content of the file ``options.config`` already read."""
    config = _base(table, options)
    if options.dense:
        config = presets.dense_twin(config)
    if options.router is not None and config.model.moe is None:
        raise UserError(f"--router {options.router}: the model has no sparse layer")
    if options.data:
        config = replace(config, data=replace(config.data, paths=tuple(options.data)))
    places = {"router": "model.moe.router", "optimizer": "optimizer", "schedule": "schedule"}
    kinds = {
        place: given
        for name, place in places.items()
        if (given := getattr(options, name)) is not None
    }
    return io.override(config, {**kinds, **dotted})


def fresh_folder(config: RunConfig, out: str | None) -> Path:
    """Where a new run goes: ``--out``, or the configured folder with a number if it is taken.

    Raises:
        UserError: ``--out`` names a folder that already holds a run.
    """
    if out == "":
        raise UserError("--out '': must name a folder")
    folder = Path((out or config.out).replace("{preset}", config.preset))
    if not _taken(folder):
        return folder
    if out is not None:
        raise UserError(
            f"--out {out}: already holds a run; continue it with --resume {out}, or name another"
        )
    number = 2
    while _taken(Path(f"{folder}-{number}")):
        number += 1
    return Path(f"{folder}-{number}")


def _base(table: Mapping[str, Any] | None, options: argparse.Namespace) -> RunConfig:
    if table is None:
        return presets.run(options.preset or DEFAULT_PRESET, options.objective)
    if options.preset is not None:
        return io.run_from_table(table, presets.run(options.preset, options.objective))
    config = io.run_from_table(table)
    if options.objective not in (None, config.objective.kind):
        raise UserError(
            f"--objective {options.objective}: {options.config} says {config.objective.kind!r}; "
            "change it there, or name a preset"
        )
    return config


def _taken(folder: Path) -> bool:
    metrics = folder / "metrics.jsonl"
    recorded = metrics.is_file() and metrics.stat().st_size > 0
    return recorded or (folder / "checkpoints").exists()
