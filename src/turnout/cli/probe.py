"""``turnout probe``: the picture of a run, and which expert reads what as JSON."""

from collections.abc import Sequence
from pathlib import Path

from turnout.cli.arguments import Parser
from turnout.cli.user_code import add_trust, trust


def run(arguments: Sequence[str]) -> int:
    """Draw a run and print the paths of what was written."""
    parser = Parser(
        "turnout probe",
        "Draw a run: its learning curve, and which expert reads what (picture.png, experts.json).",
    )
    parser.add_argument("run", metavar="RUN", help="a run's folder, or one of its step folders")
    add_trust(parser)
    options = parser.parse(arguments)
    trust(options.trust)
    from turnout.probe.run import draw

    for path in draw(Path(options.run)):
        print(path)
    return 0
