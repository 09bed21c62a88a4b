"""``turnout simulate``: a step on thousands of ranks, counted in one process."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from turnout.cli import simulate_what_if
from turnout.cli.arguments import Parser, option_names, split_dotted
from turnout.cli.resolve import add_options, resolve
from turnout.config.errors import UserError
from turnout.config.layout import over_ranks
from turnout.config.train import RunConfig


def run(arguments: Sequence[str]) -> int:
    """Print what a step takes of the first, the last and the most loaded rank; or what a record
    of routing answers."""
    rest, dotted = split_dotted(arguments)
    parser = _parser()
    options = parser.parse(rest, option_names(resolve(parser.parse_args([]), {})))
    config = resolve(options, dotted)
    if options.what_if is not None:
        return simulate_what_if.run(options, config)
    simulate_what_if.refuse(options)
    return _step(options, config, dotted)


def _step(options: argparse.Namespace, config: RunConfig, dotted: Mapping[str, str]) -> int:
    ranks = _whole(options.ranks or "8")
    if not {"train.batch_rows", "train.micro_batches"} & dotted.keys():
        config = _filled(config, ranks)
    plan = over_ranks(config, ranks)
    if ranks < 2:
        raise UserError(f"--ranks {ranks}: must be at least 2; one process needs no simulation")
    # From here on torch is needed, and what the command line got wrong is known.
    from turnout.cli.simulate_tables import show
    from turnout.simulate.compare import compare
    from turnout.simulate.loads import load_of
    from turnout.simulate.simulation import named_dtype, simulate

    config, load = named_dtype(config), load_of(options.load or "uniform")
    found = simulate(config, plan, load, _tell)
    even = load.name == "uniform"
    comparison = compare(config, plan, found["first"].cost) if even else None
    if not options.json:
        show(config, plan, load.name, found, comparison)
        return 0
    data: dict[str, Any] = {
        "preset": config.preset,
        "ranks": plan.ranks,
        "plan": asdict(plan),
        "batch_rows": config.train.batch_rows,
        "micro_batches": config.train.micro_batches,
        "dtype": config.train.dtype,
        "load": load.name,
        "seen_from": {name: asdict(cost) for name, cost in found.items()},
        "against_plan": None if comparison is None else asdict(comparison),
    }
    json.dump(data, sys.stdout, indent=2)
    print()
    return 0


def _parser() -> Parser:
    parser = Parser(
        "turnout simulate",
        "One training step of the real model, laid over any number of ranks, with tensors that "
        "have shapes and no memory: bytes by category, every collective, and the arithmetic of "
        "the first, the last and the most loaded rank, beside what `turnout plan` says. With "
        "--what-if: what a record of routing says of other capacities, ranks and placements.",
        "Values of the configuration are given as to `turnout train`, such as --parallel.expert "
        "64. A batch has a routing group for each rank unless --train.batch-rows or "
        "--train.micro-batches says otherwise.",
    )
    add_options(parser)
    parser.add_argument(
        "--ranks",
        metavar="N",
        help="how many; default 8. With --what-if those that share out the experts; default "
        "parallel.expert, or 8 at most",
    )
    parser.add_argument(
        "--load",
        metavar="MODEL",
        help="uniform, zipf:EXPONENT or the file of a routing record; default uniform",
    )
    simulate_what_if.add_options(parser)
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    return parser


def _filled(config: RunConfig, ranks: int) -> RunConfig:
    """The smallest batch that gives every batch rank a routing group, in one micro-batch."""
    group = 1 if config.model.moe is None else config.model.moe.group.rows
    rows = group * config.parallel.over(ranks).batch_ranks
    return replace(config, train=replace(config.train, batch_rows=rows, micro_batches=1))


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"--ranks {text}: must be a whole number, such as 64")
    return int(text)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
