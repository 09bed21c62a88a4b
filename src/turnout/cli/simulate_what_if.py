"""``turnout simulate --what-if``: what a record of routing says of runs that were not made."""

import argparse
import json
import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from turnout.cli.arguments import Parser, command
from turnout.config.errors import UserError
from turnout.config.train import RunConfig

if TYPE_CHECKING:
    from turnout.simulate.what_if.answers import Answers

_OWN = ("factors", "spare", "rows", "picture")


def add_options(parser: Parser) -> None:
    """Those that go with a trace."""
    parser.add_argument(
        "--what-if",
        metavar="TRACE",
        help="a routing record of this model (turnout probe RUN --record TRACE): drops against "
        "capacity, stragglers, placement and copies of experts",
    )
    parser.add_argument(
        "--factors",
        metavar="X,Y",
        help="with --what-if: capacity factors; default 0.5,0.75,1,1.25,1.5,2,3,4",
    )
    parser.add_argument(
        "--spare",
        metavar="N,M",
        help="with --what-if: spare places a rank for copies of experts; default 1,2,4",
    )
    parser.add_argument(
        "--rows",
        metavar="N",
        help="with --what-if: rows of a micro-batch of the ranks that share out the experts; "
        "default that of the configuration",
    )
    parser.add_argument(
        "--picture", metavar="FILE.png", help="with --what-if: draw the four answers"
    )


def refuse(options: argparse.Namespace) -> None:
    """Raises UserError where an option has no meaning without a trace."""
    for name in _OWN:
        if getattr(options, name) is not None:
            raise UserError(f"--{name}: goes with --what-if TRACE alone; leave it out")


def run(options: argparse.Namespace, config: RunConfig) -> int:
    """Print the answers as tables or as JSON, and draw them where asked for."""
    if options.load is not None:
        raise UserError(
            "--load: has no meaning with --what-if, which takes the trace's; leave it out"
        )
    ranks = config.parallel.expert if config.parallel.expert > 1 else None
    factors = _numbers("factors", options.factors)
    spares = _numbers("spare", options.spare, whole=True)
    rows = _numbers("rows", options.rows, whole=True)
    asked = _numbers("ranks", options.ranks, whole=True)
    # From here on torch is needed, and what the command line got wrong is known.
    from turnout.simulate.what_if.answers import FACTORS, Question, what_if
    from turnout.simulate.what_if.picture import check, draw

    question = Question(
        trace=options.what_if,
        factors=FACTORS if factors is None else factors,
        ranks=ranks if asked is None else _one("ranks", asked),
        spares=None if spares is None else tuple(map(int, spares)),
        rows=None if rows is None else _one("rows", rows),
    )
    picture = None if options.picture is None else Path(options.picture)
    if picture is not None:
        check(picture)
    answers = what_if(config, question, _tell)
    if options.json:
        json.dump(answers.to_dict(), sys.stdout, indent=2, allow_nan=False)
        print()
    else:
        from turnout.cli.what_if_tables import show

        show(answers)
    if picture is not None:
        print(f"picture: {draw(answers, picture)}", file=sys.stderr)
    if not options.json:
        print(_next(answers, options))
    return 0


def _next(answers: "Answers", options: argparse.Namespace) -> str:
    """The training command with the capacity that drops one assignment in a hundred."""
    needed, limit = answers.drops.whole.needed[0], answers.drops.limits[0]
    words = [] if options.preset is None and options.config else [answers.preset]
    words += ["--config", options.config] if options.config else []
    if needed is None:
        words += ["--parallel.expert", str(answers.ranks)]
        return f"next: {command()} plan {shlex.join(words)}"
    words += ["--model.moe.train-capacity-factor", f"{needed:g}"]
    said = f"(would have dropped {limit:.0%} of this trace at most)"
    return f"next: {command()} train {shlex.join(words)}  {said}"


def _numbers(name: str, text: str | None, whole: bool = False) -> tuple[float, ...] | None:
    """Numbers above 0, with commas between them.

    Raises:
        UserError: something else.
    """
    if text is None:
        return None
    kind = "a whole number" if whole else "a number"
    found = []
    for word in text.split(","):
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if not 0 < value <= 1e6 or (whole and not word.strip().isdecimal()):
            raise UserError(f"--{name} {text}: {word!r} must be {kind} from above 0 to 1,000,000")
        found.append(value)
    return tuple(found)


def _one(name: str, values: tuple[float, ...]) -> int:
    if len(values) > 1:
        raise UserError(f"--{name}: must be one number, not {len(values)}")
    return int(values[0])


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
