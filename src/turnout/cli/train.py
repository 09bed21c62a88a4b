"""``turnout train``: parse, build the configuration, train, say how well it went."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from turnout.cli.arguments import Parser, command, flat, option_names, split_dotted
from turnout.cli.lengths import forward_flops
from turnout.cli.resolve import add_options, fresh_folder, resolve
from turnout.config import io
from turnout.config.errors import UserError
from turnout.config.presets import PRESETS
from turnout.config.train import RunConfig


def run(arguments: Sequence[str]) -> int:
    """Train, resume, or print what would be trained."""
    rest, dotted = split_dotted(arguments)
    wants_help = any(word in ("-h", "--help") for word in rest)
    parser = _parser()
    options = parser.parse(
        [word for word in rest if word not in ("-h", "--help")],
        option_names(resolve(parser.parse_args([]), {})),
    )
    if options.resume is not None:
        return _resume(options, dotted)
    config = resolve(options, dotted)
    if wants_help:
        print(_help(parser, config))
        return 0
    if options.dry_run:
        print(describe(config), end="")
        return 0
    return _train(config, fresh_folder(config, options.out), None)


def describe(config: RunConfig) -> str:
    """The resolved configuration as TOML, with parameters and FLOPs as comments."""
    model, rows = config.model, config.train.batch_rows
    forward = forward_flops(model, rows)
    return (
        f"# {model.num_params():,} parameters, {model.num_active_params():,} active a token\n"
        f"# {forward:.4g} FLOPs a forward pass of {rows} rows, a step about three times that\n"
        f"{io.dump_toml(config)}"
    )


def _parser() -> Parser:
    parser = Parser("turnout train", "Train a model and say how well it went.")
    add_options(parser)
    parser.add_argument("--out", metavar="DIR", help="the run's folder; default runs/PRESET")
    parser.add_argument("--resume", metavar="RUN", help="continue a run from its last checkpoint")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the resolved configuration and stop"
    )
    return parser


def _help(parser: Parser, config: RunConfig) -> str:
    """All options, with the values that the given preset has."""
    names = "\n".join(f"  {name:<18} {preset.summary}" for name, preset in PRESETS.items())
    dotted = [pair for pair in flat(io.to_dict(config)) if "." in pair[0]]
    values = "\n".join(f"  --{name.replace('_', '-')} {value}" for name, value in dotted)
    return (
        f"{parser.format_help()}\npresets:\n{names}\n\n"
        f"any value of the configuration, here those of {config.preset}:\n{values}"
    )


def _resume(options: argparse.Namespace, dotted: dict[str, str]) -> int:
    for name in ("preset", "objective", "router", "data", "config", "out"):
        if getattr(options, name) is not None:
            raise UserError(
                f"--resume {options.resume}: takes no {name}, the run has its own; dotted options "
                "such as --train.steps 2000 do change it"
            )
    if options.dense:
        raise UserError(f"--resume {options.resume}: takes no --dense, the run has its own model")
    from turnout.checkpoint import folders
    from turnout.train.session import saved_config

    folder = Path(options.resume)
    config = io.override(saved_config(folder), dotted)
    if options.dry_run:
        print(describe(config), end="")
        return 0
    checkpoint = folders.latest(folder)
    return _train(config, _run_of(checkpoint, folder), checkpoint)


def _run_of(checkpoint: Path, given: Path) -> Path:
    """The run folder to go on in.

    Raises:
        UserError: ``given`` is a step folder outside a run, or not the run's newest.
    """
    from turnout.checkpoint import folders

    if checkpoint != given:
        return given
    place = checkpoint.resolve()
    steps = folders.saved_steps(place.parent.parent)
    if place.parent.name != "checkpoints" or place not in [folder for _, folder in steps]:
        raise UserError(f"--resume {given}: must be a run folder, or RUN/checkpoints/step-N in one")
    newest = steps[-1][1]
    if place != newest:
        raise UserError(
            f"--resume {given}: the run has a newer checkpoint, {newest.name}; resume the run "
            "folder, or move the newer ones away"
        )
    return given.resolve().parent.parent


def _train(config: RunConfig, folder: Path, checkpoint: Path | None) -> int:
    from turnout.cli.build_progress import build_progress
    from turnout.cli.closing import closing
    from turnout.cli.display import display
    from turnout.probe.run import baselines
    from turnout.train.header import run_header
    from turnout.train.hooks.metrics import MetricsWriter
    from turnout.train.session import open_session
    from turnout.train.trainer import Trainer

    session = open_session(config, checkpoint, build_progress())
    header = (*run_header(session), f"folder     {folder}")
    hooks = [MetricsWriter(folder / "metrics.jsonl"), display()]
    trainer = Trainer(
        session.config, session.state, session.data, session.objective, hooks, folder, header
    )
    try:
        evaluation = trainer.run()
    except KeyboardInterrupt:
        print(_interrupted(folder, session.state.step), file=sys.stderr)
        return 130
    bits = baselines(config.objective, session.data)
    print(closing(session, evaluation, folder, bits, _picture(folder, bits)), end="")
    return 0


def _picture(folder: Path, bits: Mapping[str, float]) -> str:
    from turnout.probe import pictures
    from turnout.probe.run import draw
    from turnout.probe.style import INSTALL

    if not pictures.available():
        return f"no picture was drawn; for one: {INSTALL}, then {command()} probe {folder}"
    try:
        return f"picture: {draw(folder, bits)[0]}"
    except UserError as error:
        return f"no picture was drawn: {error}"


def _interrupted(folder: Path, step: int) -> str:
    from turnout.checkpoint import folders

    saved = folders.saved_steps(folder)
    if not saved:
        return f"interrupted after step {step}; no checkpoint was written yet"
    return (
        f"interrupted after step {step}; the checkpoint of step {saved[-1][0]} is kept: "
        f"{command()} train --resume {folder}"
    )
