"""``turnout bench``: what sparse costs on this machine, beside dense layers and other libraries."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from turnout.bench.options import SUITES, TOUR, offer
from turnout.cli.arguments import Parser, file_target
from turnout.config.errors import UserError
from turnout.probe.style import altair

_WHOLE = {
    "experts": "experts of a sparse layer",
    "tokens": "tokens an expert computes, on average; of `experts` and `scaling`: of the batch",
    "k": "experts that a token passes through",
    "rows": "rows of the batch",
}
_SINGLE = {
    "width": "of the model; experts are four times as wide",
    "layers": "of each stack",
    "vocabulary": "entries of the vocabulary",
    "new": "tokens to generate",
    "repeats": "of each measurement",
    "threads": "of torch; default: what it takes by itself",
}
_NEXT = (
    "Next: `turnout bench layer` times layers of common sizes, beside other libraries where they "
    "are installed;\n`turnout bench --list` names the other suites, and --json and --chart keep "
    "what they find."
)
_WORDS = {"dtypes": "to compute in", "modes": "what is timed"}


def run(arguments: Sequence[str]) -> int:
    """Measure a suite; tables go to stdout, progress to stderr, JSON and chart where asked for."""
    named = bool(arguments) and not arguments[0].startswith("-")
    name, rest = (arguments[0], arguments[1:]) if named else (TOUR, arguments)
    wanted = offer(name)
    parser = _parser(name)
    found = vars(parser.parse(rest))
    options = wanted.options(_given(found))
    targets = {kind: _target(f"--{kind}", found[kind]) for kind in ("json", "chart")}
    if found["list"]:
        print(_listed())
        return 0
    # From here on torch is needed, and what the command line got wrong is known. Its profiler,
    # which counts memory, would tell of its start and end; torch reads this when it is imported.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    from turnout.bench import report, suites
    from turnout.bench.suite import run as measure

    if options.peers:
        _tell_missing(name)
    _build_kernels()
    command = shlex.join(["turnout", "bench", *arguments])
    result = measure(suites.build(name), options, _tell, command=command)
    print(report.markdown(result))
    if name == TOUR:
        print(_NEXT)
    if targets["chart"] is not None:
        from turnout.bench.chart import draw

        _tell(f"chart: {draw(result, targets['chart'])}")
    if targets["json"] is not None:
        report.write(result, targets["json"])
        _tell(f"JSON: {targets['json']}")
    return 0


def _build_kernels() -> None:
    """Ours at their best: with kernels in C++ wherever they can be."""
    from turnout.kernels.grouped import GROUPED
    from turnout.kernels.operators import FEW_ROWS

    try:
        GROUPED.prefer()
        FEW_ROWS.prefer()
    except UserError as error:
        _tell(f"without {error}")


def _parser(name: str) -> Parser:
    parser = Parser(
        "turnout bench",
        "Times Turnout beside the dense twin and other libraries, in turn, and holds both against "
        "the machine's peak.\nEvery pair is found equal before it is timed. Without a suite: a "
        "tour of a minute.\n\n" + _listed(),
        f"Options that mean something to {name}: "
        + " ".join(f"--{each}" for each in offer(name).takes if each != "peers"),
    )
    parser.add_argument("--list", action="store_true", help="name the suites, and end")
    for option, text in _WHOLE.items():
        parser.add_argument(f"--{option}", nargs="+", metavar="N", help=text)
    for option, text in _WORDS.items():
        parser.add_argument(f"--{option}", nargs="+", metavar="NAME", help=text)
    for option, text in _SINGLE.items():
        parser.add_argument(f"--{option}", metavar="N", help=text)
    parser.add_argument("--room", metavar="GB", help="what needs more of it is left out")
    parser.add_argument("--no-peers", action="store_true", help="without other libraries")
    parser.add_argument("--json", metavar="PATH", help="write every repeat's seconds there")
    parser.add_argument("--chart", metavar="PATH", help="draw the ratios there, as PNG")
    return parser


def _listed() -> str:
    lines = [f"  {name:<11} {each.summary}" for name, each in SUITES.items()]
    return "\n".join(["suites:", *lines])


def _given(found: dict[str, Any]) -> dict[str, Any]:
    """The options that were typed, as their fields have them."""
    given: dict[str, Any] = {}
    for option in (*_WHOLE, *_SINGLE, *_WORDS, "room"):
        value = found[option]
        if value is None:
            continue
        if option in _WHOLE:
            given[option] = tuple(_number(option, each, int) for each in value)
        elif option in _WORDS:
            given[option] = tuple(value)
        else:
            given[option] = _number(option, value, float if option == "room" else int)
    return given | ({"peers": False} if found["no_peers"] else {})


def _number(option: str, text: str, kind: type[int] | type[float]) -> int | float:
    try:
        return kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise UserError(f"--{option} {text}: must be {what} above 0") from None


def _target(option: str, text: str | None) -> Path | None:
    """A file to be written, whose folder must be there before anything is measured."""
    if text is None:
        return None
    path = file_target(option, text)
    if option == "--chart" and path.suffix != ".png":
        raise UserError(f"{option} {text}: must end in .png")
    if option == "--chart":
        altair()  # what is missing is said before anything is measured
    return path


def _tell_missing(name: str) -> None:
    from turnout.bench.peers.installed import missing_line

    line = missing_line(offer(name).peers)
    if line:
        _tell(line)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
