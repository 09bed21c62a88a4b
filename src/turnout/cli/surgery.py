"""``turnout surgery``: other models made of checkpoints, each with a receipt."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from turnout.cli import surgery_options as given
from turnout.cli.arguments import Parser, command, split_dotted
from turnout.config.errors import UserError, nearest, require
from turnout.config.train import RunConfig

if TYPE_CHECKING:
    from turnout.config.model import ModelConfig
    from turnout.surgery.base import Surgery
    from turnout.surgery.opened import Opened
    from turnout.surgery.operate import Operation, RowsOf
    from turnout.surgery.rows import Rows

Build = Callable[[argparse.Namespace, "tuple[Opened, ...]", "RowsOf"], "Surgery"]


@dataclass(frozen=True)
class Kind:
    """An operation: one line, its options, and what makes it of them."""

    summary: str
    options: Callable[[Parser], None]
    build: Build
    several: bool = False


KINDS = {
    "upcycle": Kind("a sparse model from a dense one", given.upcycle, given.build_upcycle),
    "dense": Kind("a dense model from a sparse one", given.dense, given.build_dense),
    "prune": Kind("keep the experts that matter", given.prune, given.build_prune),
    "merge": Kind("experts that are alike become one", given.merge, given.build_merge),
    "grow": Kind("more experts", given.grow, given.build_grow),
    "split": Kind("finer experts: shares of their units", given.split, given.build_split),
    "clone": Kind("every expert several times", given.clone, given.build_clone),
    "reorder": Kind("experts in another order", given.reorder, given.build_reorder),
    "choices": Kind("another number of experts a token", given.choices, given.build_choices),
    "btx": Kind("experts from several dense models", given.btx, given.build_btx, True),
    "domains": Kind("add or remove a domain's expert", given.domains, given.build_domains),
}
ENSEMBLE = "ensemble"


def run(arguments: Sequence[str]) -> int:
    """Do what the first word says.

    Raises:
        UserError: one line; nothing is written then.
    """
    name, *rest = arguments or ("--help",)
    if name in ("-h", "--help", "help"):
        lines = [f"  {kind:<9} {KINDS[kind].summary}" for kind in KINDS]
        lines.append(f"  {ENSEMBLE:<9} several models with a posterior over them, on a text")
        print("usage: turnout surgery OPERATION RUN --out DIR [OPTIONS]\n\n" + "\n".join(lines))
        print("\nRUN is a run's folder, one of its steps, or a Hugging Face folder.")
        print("`turnout surgery OPERATION --help` says more.")
        return 0
    if name == ENSEMBLE:
        from turnout.cli.surgery_ensemble import run as ensemble

        return ensemble(rest)
    if name not in KINDS:
        raise UserError(f"surgery: no operation {name!r}; {nearest(name, [*KINDS, ENSEMBLE])}")
    return _operate(name, KINDS[name], rest)


def _operate(name: str, kind: Kind, arguments: Sequence[str]) -> int:
    rest, dotted = split_dotted(arguments)
    options = _parser(name, kind).parse(rest)
    if options.out is None and not options.dry_run:
        raise UserError("--out: required, a new folder; or --dry-run")
    from turnout.cli.surgery_display import show
    from turnout.surgery.opened import open_source
    from turnout.surgery.operate import Job

    require(0 <= options.seed < 2**63, "--seed", options.seed, "in 0 .. 2^63 - 1")
    paths = options.runs if kind.several else [options.run]
    sources = tuple(open_source(path) for path in paths)
    rows = _rows_of(options, sources)
    surgery = kind.build(options, sources, rows)
    compared = None if options.unchecked or options.dry_run else rows
    job = Job(surgery, sources, dotted, options.optimizer, compared, command=command())
    operation = job.planned()
    if options.dry_run:
        show(operation.receipt().placed(options.out or "OUT"), None)
        return 0
    target = Path(options.out)
    show(operation.write(target, _next(operation, options.optimizer)), target)
    return 0


def _parser(name: str, kind: Kind) -> Parser:
    parser = Parser(
        f"turnout surgery {name}",
        f"{kind.summary[0].upper()}{kind.summary[1:]}.",
        "Dotted options such as --model.moe.train_capacity_factor 2 change the new configuration.",
    )
    if kind.several:
        parser.add_argument("runs", metavar="RUN", nargs="+", help="runs' or Hugging Face folders")
    else:
        parser.add_argument(
            "run", metavar="RUN", help="a run's folder, a step's, or Hugging Face's"
        )
    parser.add_argument("--out", metavar="DIR", help="a new run's folder")
    kind.options(parser)
    parser.add_argument(
        "--optimizer",
        choices=("keep", "drop"),
        default="drop",
        help="take its state along and go on at the same step, or begin anew (default)",
    )
    parser.add_argument(
        "--data",
        nargs="+",
        default=[],
        metavar="PATH",
        help="text to measure on; default the run's",
    )
    parser.add_argument(
        "--rows", type=int, default=16, metavar="N", help="rows to measure on; default 16"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of noise and new weights")
    parser.add_argument("--unchecked", action="store_true", help="write without comparing")
    parser.add_argument("--dry-run", action="store_true", help="print the receipt's arithmetic")
    return parser


def _rows_of(options: argparse.Namespace, sources: "tuple[Opened, ...]") -> "RowsOf":
    """The text where there is one, random tokens elsewhere."""
    from turnout.cli.build_progress import build_progress
    from turnout.surgery.rows import held_out, random_rows

    first = sources[0]

    def rows(run: RunConfig) -> "Rows":
        if first.has_text or options.data:
            tokenizer = first.tokenizer()
            return held_out(run, tokenizer, options.data, options.rows, build_progress())
        return random_rows(run, options.seed)

    return rows


def _reads_labels(model: "ModelConfig") -> bool:
    """Whether a router reads labels, which text without a mixture has none of."""
    from turnout.config.routers.base import labels_read

    moe = model.moe
    routers = () if moe is None else (moe.router, moe.decoder_router)
    return any(router is not None and labels_read(router) is not None for router in routers)


def _next(operation: "Operation", optimizer: str) -> list[str]:
    """What to type, with ``{out}`` for the new folder."""
    from turnout.cli.main import COMMANDS

    run = operation.plan.run
    found = []
    if operation.resumable:
        more = f" --train.steps {2 * run.train.steps}" if optimizer == "keep" else ""
        found.append(f"{command()} train --resume {{out}}{more}")
    if "finetune" in COMMANDS and not _reads_labels(run.model):
        found.append(f"{command()} finetune {{out}} --data PATH")
    if not found:
        label = " --label 0" if _reads_labels(run.model) else ""
        found.append(f"{command()} generate {{out}}{label} --prompt ...")
    return found
