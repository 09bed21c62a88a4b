"""``turnout check router``: a router of ours or of yours against the whole contract."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from turnout.cli.arguments import Parser, split_dotted
from turnout.cli.user_code import trust
from turnout.config import io
from turnout.config.errors import UserError
from turnout.config.routers import CustomRouter, RouterConfig


def run(arguments: Sequence[str]) -> int:
    """Print a verdict, or a table of verdicts; 1 where something fails.

    Raises:
        UserError: no such router, or neither a name nor ``--all``.
    """
    rest, dotted = split_dotted(arguments)
    options = _parser().parse(rest)
    if options.all == bool(options.router):
        raise UserError("check router: takes the name of a router, or --all; see --help")
    if options.all:
        return _all()
    return _one(options.router, dotted)


def _parser() -> Parser:
    parser = Parser(
        "turnout check router",
        "Measure what a router keeps of the contract: precision, weights, slots, padding, "
        "micro-batches, batch mates, causality, noise, recomputation, compilation.",
        "Options of the router follow as --router.k 2; yours is module:Class.",
    )
    parser.add_argument("router", nargs="?", metavar="NAME|MODULE:CLASS")
    parser.add_argument(
        "--all", action="store_true", help="every router of the package, as a Markdown table"
    )
    return parser


def _one(name: str, dotted: Mapping[str, str]) -> int:
    from turnout.conformance import Finding, RouterLayer, check

    router = _configured(name, dotted)
    trust([router.target] if isinstance(router, CustomRouter) else [])

    def tell(found: Finding) -> None:
        print(f"{found.name:<18} {found.status:<9}  {found.detail}", flush=True)

    verdict = check(RouterLayer(router, name), tell=tell)
    print(verdict.text().splitlines()[-1])
    return 0 if verdict.passed else 1


def _configured(name: str, dotted: Mapping[str, str]) -> RouterConfig:
    """The router of that name with its options; without any, a form that fits the kit."""
    from turnout.conformance.examples import example

    options = {key.removeprefix("router."): value for key, value in dotted.items()}
    ours = None if ":" in name else example(name)
    given: Any = {"kind": name} if ours is None else io.to_dict(ours)
    router: RouterConfig = io.from_dict(RouterConfig, given, path="router")
    return io.override(router, options, "router") if options else router


def _all() -> int:
    import torch

    from turnout.conformance import RouterLayer, check
    from turnout.conformance.examples import EXAMPLES
    from turnout.conformance.properties import PROPERTIES

    names = [asked.name for asked in PROPERTIES]
    print("# What every router keeps of the contract\n")
    print(
        f"`turnout check router --all`, torch {torch.__version__}, {torch.get_num_threads()} "
        "threads. A property holds (yes), fails (**NO**), or is not asked (-): of a router that "
        "declares itself coupled, or that has nothing to ask about.\n"
    )
    print(f"| Router | {' | '.join(names)} | seconds |")
    print("|---" * (len(names) + 2) + "|")
    failed = 0
    for name, router in EXAMPLES.items():
        started = time.perf_counter()
        verdict = check(RouterLayer(router, name))
        marks = [{"holds": "yes", "FAILS": "**NO**"}.get(f.status, "-") for f in verdict.findings]
        seconds = time.perf_counter() - started
        print(f"| {name} | {' | '.join(marks)} | {seconds:.1f} |", flush=True)
        failed += not verdict.passed
    print(f"\n{len(EXAMPLES)} forms of routers, {failed} with a property that fails.")
    return 1 if failed else 0
