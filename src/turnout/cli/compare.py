"""``turnout compare``: a sparse model against dense ones, by a protocol fixed beforehand."""

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from turnout.cli.arguments import Parser, alone, command, split_dotted
from turnout.cli.resolve import add_options, resolve_over
from turnout.config import io
from turnout.config.arms import DENSE, arms, count_runs, main_arm, total_flops
from turnout.config.compare import (
    BASELINES,
    TABLE,
    CompareConfig,
    Protocol,
    baseline_defaults,
    resolved,
)
from turnout.config.convert import Text
from turnout.config.errors import UserError, require
from turnout.config.train import RunConfig

if TYPE_CHECKING:
    from turnout.compare.conduct import Conducted

_SHORT = {"experts": "experts", "rates": "learning_rates", "seeds": "seeds"}
_PREFIX = f"{TABLE}."
_EVALUATIONS = 40
_EPILOG = "`turnout train --help` lists the options of the run, such as --train.steps 600."


def run(arguments: Sequence[str]) -> int:
    """Compare, or print what would be compared."""
    rest, dotted = split_dotted(arguments)
    parser = _parser()
    known = [f"--{TABLE}.{name}" for name, _ in io.flat(io.to_dict(CompareConfig()))]
    options = parser.parse(rest, known)
    if options.dense:
        raise UserError("compare takes no --dense: the dense twin is derived from the sparse run")
    if options.by_source:
        alone(parser, options, "by_source", ("out",), dotted)
        dense, sparse = map(Path, options.by_source)
        return _by_source(dense, sparse, options.out)
    require(options.jobs >= 1, "--jobs", options.jobs, "at least 1")
    protocol = _protocol(options, dotted)
    if options.dry_run:
        print(describe(protocol), end="")
        return 0
    return _compare(protocol, _folder(protocol, options.out), arguments, options.jobs)


def _by_source(dense: Path, sparse: Path, out: str | None) -> int:
    from turnout.compare.by_source import by_source, draw

    found = by_source(dense, sparse)
    folder = Path(out or sparse)
    folder.mkdir(parents=True, exist_ok=True)
    for name, ratio in found.speed_ups.items():
        losses = f"dense {found.dense[name]:.4f}, sparse {found.sparse[name]:.4f} nats a target"
        print(f"{name:<12} {ratio.text():>12}  {losses}")
    print(f"{found.line}\nfigures: {found.save(folder)}")
    print(f"picture: {draw(found, folder)}")
    return 0


def describe(protocol: Protocol) -> str:
    """The protocol as TOML, with its arms, runs and arithmetic as comments."""
    lines = [
        f"# {count_runs(protocol)} runs of {protocol.run.train.steps:,} steps, "
        f"{total_flops(protocol):.4g} FLOPs in all"
    ]
    for arm in arms(protocol):
        model = arm.config.model
        trial = "" if arm.rate_of == arm.name else f", learning rate of {arm.rate_of}"
        lines += [
            f"# {arm.name}: {model.num_params():,} parameters, {model.num_active_params():,} "
            f"active, {arm.step_flops:.4g} FLOPs a step, {arm.seeds} "
            f"seed{'s' if arm.seeds > 1 else ''}{trial}",
            *(f"#   {note}" for note in arm.notes),
        ]
    return "\n".join(lines) + f"\n{protocol.toml()}"


def _parser() -> Parser:
    parser = Parser(
        "turnout compare",
        "Train a sparse model and its dense twin of equal arithmetic on the same batches, and say\n"
        "how much sooner which is as good. Typed again, it goes on where it stopped.",
        _EPILOG,
    )
    add_options(parser, dense=argparse.SUPPRESS)
    parser.add_argument(
        "--by-source",
        nargs=2,
        metavar=("DENSE", "SPARSE"),
        help="train nothing: two runs on the sources of one mixture, such as languages, and how "
        "much sooner the sparse one learnt each",
    )
    parser.add_argument(
        "--experts", nargs="+", metavar="E", help="counts of experts; default: the preset's alone"
    )
    parser.add_argument(
        "--rates",
        nargs="+",
        metavar="X",
        help="learning rates tried on seed 0; default: half, once and twice the preset's",
    )
    parser.add_argument("--seeds", metavar="N", help="seeds 1 to N are reported; default 3")
    parser.add_argument(
        "--baselines", nargs="+", metavar="NAME", help=f"more: {', '.join(BASELINES)}"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="runs at once, each with its share of the processors; default 1",
    )
    parser.add_argument("--out", metavar="DIR", help="default runs/compare-PRESET")
    parser.add_argument("--dry-run", action="store_true", help="print the protocol and stop")
    return parser


def _protocol(options: argparse.Namespace, dotted: Mapping[str, str]) -> Protocol:
    """Preset, then file, then options, and what they leave open."""
    table = {} if options.config is None else io.load_table(options.config)
    given = table.pop(TABLE, {})
    of_compare = {
        name.removeprefix(_PREFIX): text
        for name, text in dotted.items()
        if name.startswith(_PREFIX)
    }
    compare = io.from_dict(CompareConfig, given, path=TABLE)
    compare = io.from_dict(CompareConfig, _short(options, of_compare), compare, TABLE)
    compare = io.override(compare, of_compare, TABLE)
    of_run = {name: text for name, text in dotted.items() if not name.startswith(_PREFIX)}
    run = resolve_over(None if options.config is None else table, options, of_run)
    return resolved(_adapted(run, compare, of_run) if options.config is None else run, compare)


def _short(options: argparse.Namespace, dotted: Mapping[str, str]) -> dict[str, Any]:
    """The short options as values of ``[compare]``.

    Raises:
        UserError: one of them is also given as a dotted option.
    """
    table: dict[str, Any] = {}
    for short, name in _SHORT.items():
        value = getattr(options, short)
        if value is None:
            continue
        if name in dotted:
            raise UserError(f"--{short} and --{_PREFIX}{name} are the same; give one of them")
        table[name] = Text(value) if isinstance(value, str) else [Text(text) for text in value]
    return {**table, **baseline_defaults(tuple(options.baselines or ()))}


def _adapted(run: RunConfig, compare: CompareConfig, given: Mapping[str, str]) -> RunConfig:
    """A preset for a comparison: evaluated often, and with one of the counts that are asked for."""
    train, moe = run.train, run.model.moe
    if "train.eval_every" not in given:
        often = max(train.steps // _EVALUATIONS, 1)
        run = replace(run, train=replace(train, eval_every=often))
    if (
        moe is not None
        and compare.experts
        and moe.num_experts not in compare.experts
        and "model.moe.num_experts" not in given
    ):
        moe = replace(moe, num_experts=compare.experts[0])
        run = replace(run, model=replace(run.model, moe=moe))
    return run


def _folder(protocol: Protocol, out: str | None) -> Path:
    if out == "":
        raise UserError("--out '': must name a folder")
    usual = Path(protocol.run.out.replace("{preset}", protocol.run.preset))
    return usual.with_name(f"compare-{usual.name}") if out is None else Path(out)


def _compare(protocol: Protocol, folder: Path, arguments: Sequence[str], jobs: int) -> int:
    from turnout.cli.progress import progress
    from turnout.compare.conduct import conduct
    from turnout.compare.runner import prepare

    typed = shlex.join(["turnout", "compare", *arguments])
    prepare(protocol, folder)
    print(f"{count_runs(protocol)} runs in {folder}; to go on after a stop, type this again")
    try:
        with progress() as say:
            done = conduct(protocol, folder, say, typed, jobs=jobs)
    except KeyboardInterrupt:
        print(f"interrupted; what is done is kept in {folder}: {typed}", file=sys.stderr)
        return 130
    print(_closing(done), end="")
    return 0


def _closing(done: "Conducted") -> str:
    """The speed-ups, where everything is, and what to type next."""
    from turnout.compare.runner import RUNS
    from turnout.compare.tables import loss_line, speed_line
    from turnout.probe.style import INSTALL

    comparison = done.comparison
    pictures = ", ".join(map(str, done.pictures))
    both = (main_arm(comparison.protocol).name, DENSE)
    runs = " ".join(str(done.folder / RUNS / comparison.arm(arm).seeds[0].run) for arm in both)
    lines = [
        "",
        *map(speed_line, comparison.pairs),
        "",
        *map(loss_line, comparison.arms),
        "",
        f"page: {done.page}",
        f"figures: {done.figures}",
        f"pictures: {pictures}"
        if pictures
        else f"no picture was drawn; for some: {INSTALL}, then the same command again",
        f"next: {command()} report {runs}",
    ]
    return "\n".join(lines) + "\n"
