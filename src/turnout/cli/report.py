"""``turnout report``: a run, or several compared, as one HTML file that needs no network."""

from collections.abc import Sequence
from pathlib import Path

from turnout.cli.arguments import Parser
from turnout.cli.user_code import add_trust, trust
from turnout.config.errors import UserError


def run(arguments: Sequence[str]) -> int:
    """Write the report and print the paths of what was written."""
    options = _parser().parse(arguments)
    trust(options.trust)
    folders = [Path(folder) for folder in options.runs]
    out = None if options.out is None else Path(options.out)
    if options.png and len(folders) > 1:
        raise UserError("--png: takes one run; its charts go into RUN/pictures")
    from turnout.probe import report

    if len(folders) > 1:
        print(report.compare(folders, out))
        return 0
    if not options.png:
        print(report.write(folders[0], out))
        return 0
    for path in report.write_pictures(folders[0], out):
        print(path)
    return 0


def _parser() -> Parser:
    parser = Parser(
        "turnout report",
        "Write the report of a run (RUN/report.html), or one page that compares several runs "
        "(comparison.html beside the first).",
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="a run's folder, or one of its step folders"
    )
    parser.add_argument("--out", metavar="FILE", help="where the page goes")
    parser.add_argument(
        "--png", action="store_true", help="write the charts as PNG too, into RUN/pictures"
    )
    add_trust(parser)
    return parser
