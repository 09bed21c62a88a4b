"""``turnout plan``: what a run takes on a number of devices, and how best to lay it over them."""

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from turnout.cli.arguments import Parser, option_names, split_dotted
from turnout.cli.resolve import add_options, resolve
from turnout.config import io
from turnout.config.errors import UserError
from turnout.plan import report
from turnout.plan.cost import Outlook, outlook
from turnout.plan.hardware import DEVICES, Assumptions, Device, Prices, device_of
from turnout.plan.remedies import Remedy, remedies
from turnout.plan.search import Layout, Question, layouts

_SUFFIXES = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
_GROUPS = ("assume", "price")
_SEARCHED = ("train.micro_batches", "train.recompute")
_PASSED = ("objective", "router", "optimizer", "schedule", "config")


@dataclass(frozen=True)
class Answer:
    """A plan: what was asked, all layouts from the best on, and what to do."""

    question: Question
    prices: Prices
    tokens: float | None
    found: list[Layout]
    remedies: list[Remedy]
    command: str

    @property
    def best(self) -> Layout:
        return self.found[0]

    @property
    def outlook(self) -> Outlook:
        """Of the best layout."""
        return self.of(self.best)

    def of(self, layout: Layout) -> Outlook:
        """What the budget takes with a layout."""
        return outlook(layout.work, layout.device, layout.time, self.prices, self.tokens)


def run(arguments: Sequence[str]) -> int:
    """Print the plan as tables or as JSON, and draw it where asked for."""
    rest, dotted = split_dotted(arguments)
    parser = _parser()
    options = parser.parse(rest, option_names(resolve(parser.parse_args([]), {})))
    answer = _answer(options, dotted)
    if options.json:
        json.dump(as_data(answer), sys.stdout, indent=2)
        print()
    else:
        from turnout.cli.plan_tables import show

        show(answer, options.top)
    if options.picture is not None:
        from turnout.plan.picture import draw

        path = Path(options.picture)
        path.write_text(draw(answer.best), encoding="utf-8")
        print(f"picture: {path}", file=sys.stderr)
    return 0 if answer.best.fits else 1


def as_data(answer: Answer) -> dict[str, Any]:
    """The plan as tables, lists and scalars."""
    question, work = answer.question, answer.best.work
    row = work.anatomy.row.total
    tokens = work.anatomy.row_tokens
    return {
        "preset": question.config.preset,
        "model": report.model_facts(question.config.model, row, tokens),
        "device": asdict(question.device),
        "devices": question.ranks,
        "assumptions": asdict(question.assumed),
        "fits": answer.best.fits,
        "best": report.detail(answer.best, answer.outlook),
        "layouts": [report.brief(layout) for layout in answer.found],
        "command": answer.command if answer.best.fits else None,
        "remedies": [asdict(remedy) for remedy in answer.remedies],
    }


def _parser() -> Parser:
    parser = Parser(
        "turnout plan",
        "Memory, communication and time of a run on a number of devices, before any is rented: "
        "all layouts, ranked, and the command that starts the best.",
        "Values of the configuration are given as to `turnout train`; sizes of --parallel, "
        "--train.micro-batches and --train.recompute that are given are kept, others are looked "
        "for. --assume.NAME X replaces an assumption "
        f"({', '.join(asdict(Assumptions()))}), --price.NAME X gives a price "
        f"({', '.join(asdict(Prices()))}). It ends with 1 where nothing fits.",
    )
    add_options(parser)
    parser.add_argument("--devices", metavar="N", default="8", help="how many; default 8")
    parser.add_argument(
        "--device",
        metavar="NAME",
        default="h100",
        help=f"{', '.join(DEVICES)}, or FILE.toml with figures of yours; default h100",
    )
    parser.add_argument("--tokens", metavar="T", help="a budget of tokens, such as 300B or 1e12")
    parser.add_argument(
        "--top", type=int, default=10, metavar="N", help="layouts to list; default 10"
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument(
        "--picture", metavar="FILE.svg", help="draw which rank holds which weights and tokens"
    )
    return parser


def _answer(options: argparse.Namespace, dotted: Mapping[str, str]) -> Answer:
    groups = {name: _group(dotted, name) for name in _GROUPS}
    of_run = {name: text for name, text in dotted.items() if name.split(".")[0] not in _GROUPS}
    config = resolve(options, of_run)
    if config.train.dtype == "auto":
        config = io.override(config, {"train.dtype": "bfloat16"})
    device = device_of(options.device)
    question = Question(
        config=config,
        ranks=_whole(options.devices),
        device=device,
        assumed=io.override(Assumptions(), groups["assume"], "assume"),
        fixed=frozenset(
            name for name in of_run if name.startswith("parallel.") or name in _SEARCHED
        ),
    )
    found = layouts(question)
    best = found[0]
    return Answer(
        question=question,
        prices=io.override(Prices(), groups["price"], "price"),
        tokens=None if options.tokens is None else _tokens(options.tokens),
        found=found,
        remedies=[] if best.fits else remedies(question),
        command=command(best, device, _own_words(options, of_run)),
    )


def command(layout: Layout, device: Device, own: Sequence[str]) -> str:
    """What starts a run on all devices; on several nodes, on each of them."""
    plan, train, ranks = layout.plan, layout.config.train, layout.plan.ranks
    words = {
        "--parallel.fsdp": plan.fsdp if plan.batch_ranks > 1 else None,
        "--parallel.expert": plan.expert if plan.expert > 1 else None,
        "--parallel.tensor": plan.tensor if plan.tensor > 1 else None,
        "--parallel.sequence": "true" if plan.sequence else None,
        "--train.micro-batches": train.micro_batches,
        "--train.recompute": str(train.recompute).lower(),
    }
    given = [text for name, value in words.items() if value for text in (name, str(value))]
    start = ["turnout"]
    if ranks > 1:
        here = min(device.node, ranks)
        nodes = -(-ranks // here)
        where = ["--nnodes", str(nodes), "--rdzv-backend", "c10d", "--rdzv-endpoint", "HOST:29500"]
        start = ["torchrun", *(where if nodes > 1 else []), "--nproc-per-node", str(here)]
        start += ["-m", "turnout"]
    return shlex.join([*start, "train", *own, *given])


def _own_words(options: argparse.Namespace, dotted: Mapping[str, str]) -> list[str]:
    """The user's part of the command line, without what was looked for."""
    words = [] if options.preset is None else [options.preset]
    for name in _PASSED:
        if getattr(options, name) is not None:
            words += [f"--{name}", str(getattr(options, name))]
    words += ["--dense"] if options.dense else []
    words += ["--data", *options.data] if options.data else []
    for name, text in dotted.items():
        searched = name in _SEARCHED or name.startswith("parallel.")
        if not searched or name == "parallel.wire":
            words += [f"--{name.replace('_', '-')}", text]
    return words


def _group(dotted: Mapping[str, str], name: str) -> dict[str, str]:
    start = f"{name}."
    return {key.removeprefix(start): text for key, text in dotted.items() if key.startswith(start)}


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise UserError(f"--devices {text}: must be a whole number, such as 64")
    return int(text)


def _tokens(text: str) -> float:
    """A number of tokens, with k, M, B or T behind it.

    Raises:
        UserError: it is no number above zero.
    """
    factor = _SUFFIXES.get(text[-1:].lower(), 1.0)
    digits = text[:-1] if factor > 1 else text
    try:
        value = float(digits) * factor
    except ValueError:
        value = 0.0
    if not 0 < value < 1e21:
        raise UserError(f"--tokens {text}: must be a number above 0, such as 300B or 1e12")
    return value
