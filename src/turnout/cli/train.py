"""``turnout train``: parse, build the configuration, train, say how well it went."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from turnout.cli.arguments import (
    Parser,
    command,
    dotted_values,
    option_names,
    split_dotted,
)
from turnout.cli.auto import laid_out
from turnout.cli.launch import Launch
from turnout.cli.resolve import add_options, fresh_folder, resolve
from turnout.cli.user_code import add_trust, trust, trust_own
from turnout.config import io
from turnout.config.arithmetic import forward_flops
from turnout.config.errors import UserError
from turnout.config.layout import over_ranks
from turnout.config.parallel import ParallelPlan
from turnout.config.presets import PRESETS
from turnout.config.train import RunConfig

if TYPE_CHECKING:
    from turnout.train.hooks.base import Hook
    from turnout.train.ranks import Ranks
    from turnout.train.report import Evaluation
    from turnout.train.session import Session


def run(arguments: Sequence[str]) -> int:
    """Train, resume, or print what would be trained; as one process or as one of several."""
    launch = Launch.of_environment()
    return launch.run(lambda: _run(arguments, launch))


def _run(arguments: Sequence[str], launch: Launch) -> int:
    rest, dotted = split_dotted(arguments)
    wants_help = any(word in ("-h", "--help") for word in rest)
    parser = _parser()
    options = parser.parse(
        [word for word in rest if word not in ("-h", "--help")],
        option_names(resolve(parser.parse_args([]), {})),
    )
    if options.resume is not None:
        return _resume(options, dotted, launch)
    config = _acting(resolve(options, dotted), options.act)
    if wants_help:
        _say(f"{_help(parser, config)}\n", launch)
        return 0
    if options.parallel is not None:
        config = laid_out(config, launch.size, options.device, dotted)
    if not options.dry_run:
        trust_own(config.model.moe)
    return begin(config, options, launch)


def add_begin(parser: Parser, folder: str) -> None:
    """What ``begin`` reads of a command line; ``folder`` is the default that help names."""
    parser.add_argument("--out", metavar="DIR", help=f"the run's folder; default {folder}")
    parser.add_argument(
        "--hook",
        action="append",
        default=[],
        metavar="MODULE:FACTORY",
        help="a tracker of yours: factory(run folder) gives a turnout.Hook; may be given again",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the resolved configuration and stop"
    )


def begin(config: RunConfig, options: argparse.Namespace, launch: Launch) -> int:
    """Trains a new run, or prints it; goes on with one whose processes were restarted.

    Args:
        options: ``out``, ``hook`` and ``dry_run``, of the command line.
    """
    plan = over_ranks(config, launch.size)
    if options.dry_run:
        _say(describe(config), launch)
        return 0
    begun = again(launch)
    if begun is not None:
        return _go_on(config, Run(launch, plan, begun, None, options.hook))
    folder = fresh_folder(config, options.out) if launch.first else None
    if folder is not None and launch.size > 1:
        from turnout.parallel.launch import remember

        remember(folder)
    return train(config, Run(launch, plan, folder, None, options.hook))


def again(launch: Launch) -> Path | None:
    """The folder of a run whose processes torchrun has restarted."""
    if launch.size == 1 or launch.attempt == 0:
        return None
    from turnout.parallel.launch import remembered

    return remembered()


def _go_on(config: RunConfig, run: "Run") -> int:
    """The run that was begun before the restart: from its newest checkpoint, if it has one."""
    from turnout.checkpoint import folders
    from turnout.train.session import saved_config

    assert run.folder is not None
    if not folders.saved_steps(run.folder):
        return train(config, run)
    checkpoint = folders.latest(run.folder)
    if run.launch.first:
        print(f"restarted: going on from {checkpoint}", file=sys.stderr)
    return train(saved_config(checkpoint), replace(run, checkpoint=checkpoint))


def describe(config: RunConfig) -> str:
    """The resolved configuration as TOML, with parameters and FLOPs as comments."""
    model, rows = config.model, config.train.batch_rows
    forward = forward_flops(model, rows)
    return (
        f"# {model.num_params():,} parameters, {model.num_active_params():,} active a token\n"
        f"# {forward:.4g} FLOPs a forward pass of {rows} rows, a step about three times that\n"
        f"{io.dump_toml(config)}"
    )


def _acting(config: RunConfig, act: bool) -> RunConfig:
    return replace(config, alarms=replace(config.alarms, act=True)) if act else config


def _parser() -> Parser:
    parser = Parser("turnout train", "Train a model and say how well it went.")
    add_options(parser)
    add_begin(parser, "runs/PRESET")
    parser.add_argument("--resume", metavar="RUN", help="continue a run from its last checkpoint")
    parser.add_argument(
        "--parallel",
        choices=("auto",),
        help="lay the run over the started ranks as `turnout plan` ranks first",
    )
    parser.add_argument(
        "--device", default="cpu", metavar="NAME", help="what auto plans for; default cpu"
    )
    parser.add_argument(
        "--act", action="store_true", help="let alarms change the loss coefficients, with a record"
    )
    add_trust(parser)
    return parser


def _help(parser: Parser, config: RunConfig) -> str:
    """All options, with the values that the given preset has."""
    names = "\n".join(f"  {name:<18} {preset.summary}" for name, preset in PRESETS.items())
    dotted = dotted_values(config)
    values = "\n".join(f"  --{name.replace('_', '-')} {value}" for name, value in dotted)
    adapters = "" if config.lora else "; adapters are off until one of theirs is given"
    return (
        f"{parser.format_help()}\npresets:\n{names}\n\n"
        f"any value of the configuration, here those of {config.preset}{adapters}:\n{values}"
    )


def _resume(options: argparse.Namespace, dotted: dict[str, str], launch: Launch) -> int:
    for name in (
        *("preset", "objective", "router", "data", "config", "out"),
        *("optimizer", "schedule", "parallel"),
    ):
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
    config = _acting(io.override(saved_config(folder), dotted), options.act)
    plan = over_ranks(config, launch.size)
    if options.dry_run:
        _say(describe(config), launch)
        return 0
    trust(options.trust)
    checkpoint = folders.latest(folder)
    return train(config, Run(launch, plan, _run_of(checkpoint, folder), checkpoint, options.hook))


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


def _say(text: str, launch: Launch) -> None:
    if launch.first:
        print(text, end="")


@dataclass(frozen=True)
class Run:
    """Where a run goes, what it begins with, and what this process is to it.

    Attributes:
        folder: of the run; of a new one the first process alone knows it.
        checkpoint: to go on from, or None.
        trackers: hooks of the user's.
    """

    launch: Launch
    plan: ParallelPlan
    folder: Path | None
    checkpoint: Path | None
    trackers: Sequence[str]


def train(config: RunConfig, run: Run) -> int:
    """Trains as configured, says how well it went, and returns the exit code."""
    with _joining(config, run) as connect:
        return _trained(config, run, connect)


def _trained(config: RunConfig, run: Run, connect: "Callable[[], Ranks]") -> int:
    from turnout.checkpoint.format import CheckpointError
    from turnout.cli.build_progress import build_progress
    from turnout.train.host_memory import keep_freed_memory
    from turnout.train.ranks import told
    from turnout.train.session import open_session
    from turnout.train.stopping import Interrupted
    from turnout.train.trainer import Trainer

    keep_freed_memory()
    progress = build_progress() if run.launch.first else None
    session = open_session(config, run.checkpoint, progress, connect)
    ranks = session.state.ranks
    folder = Path(told(ranks, lambda: str(run.folder)))
    watching = _watching(folder, run.trackers) if run.launch.first else []
    trainer = Trainer.of(session, folder, watching)
    try:
        evaluation = trainer.run()
    except Interrupted as stop:
        if run.launch.first:
            print(f"{stop}; to go on: {command()} train --resume {folder}", file=sys.stderr)
        ranks.close()
        return 128 + stop.signal
    except OSError as error:  # a full disk, most likely
        where = f": {error.filename}" if error.filename else f" while writing to {folder}"
        raise UserError(_kept(f"{error.strerror or error}{where}", folder)) from error
    except CheckpointError as error:  # the same on one of several ranks; all of them leave
        raise CheckpointError(_kept(str(error), folder)) from error
    ranks.close()
    if run.launch.first:
        _close(session, evaluation, folder)
    return 0


def _joining(config: RunConfig, run: Run) -> "AbstractContextManager[Callable[[], Ranks]]":
    """What joins the other processes, where there are any."""
    from turnout.train.ranks import Alone

    if run.launch.size == 1:
        return nullcontext(Alone)
    from turnout.parallel.launch import joining

    group_rows = 1 if config.model.moe is None else config.model.moe.group.rows
    return joining(run.plan, group_rows, run.launch.rank)


def _watching(folder: Path, trackers: Sequence[str]) -> "list[Hook]":
    from turnout.cli.display import display
    from turnout.train.hooks.starts import StartsWriter

    return [StartsWriter(folder), display(), *_trackers(folder, trackers)]


def _close(session: "Session", evaluation: "Evaluation", folder: Path) -> None:
    """Says how well a run did; the samples are of its checkpoint, where ranks share the model."""
    from turnout.cli.closing import closing
    from turnout.probe.run import baselines
    from turnout.train.session import load_run

    if session.state.ranks.size > 1:
        _, whole = load_run(folder)
        session = replace(session, state=replace(session.state, model=whole))
    bits = baselines(session.config.objective, session.data)
    print(closing(session, evaluation, folder, bits, lambda: _picture(folder, bits)), end="")


def _kept(problem: str, folder: Path) -> str:
    """What went wrong with a file, and what is left of the run."""
    from turnout.checkpoint import folders

    steps = folders.saved_steps(folder)
    if not steps:
        return f"{problem}; nothing was saved"
    return (
        f"{problem}; the run is kept up to step {steps[-1][0]}; to go on when that is mended: "
        f"{command()} train --resume {folder}"
    )


def _trackers(folder: Path, names: Sequence[str]) -> "list[Hook]":
    """TensorBoard where it is installed, and the hooks that the command line names."""
    from turnout.cli.trackers import load_hook

    found = [load_hook(name, folder) for name in names]
    if find_spec("tensorboard") is not None:
        from turnout.train.hooks.tensorboard import TensorBoard

        found.append(TensorBoard(folder))
    return found


def _picture(folder: Path, bits: Mapping[str, float]) -> str:
    from turnout.probe import pictures, report
    from turnout.probe.run import draw_measured, measure
    from turnout.probe.style import INSTALL

    if not pictures.available():
        return f"no picture was drawn; for one: {INSTALL}, then {command()} report {folder}"
    try:
        measured = measure(folder, bits)
        picture = draw_measured(measured)[0]
        return f"picture: {picture}\nreport: {report.write(folder, measured=measured)}"
    except UserError as error:
        return f"no picture was drawn: {error}"
