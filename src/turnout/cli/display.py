"""Which display a run gets: a live one on a terminal, plain lines elsewhere."""

from rich.console import Console

from turnout.train.hooks.base import Hook
from turnout.train.hooks.live import LiveDisplay
from turnout.train.hooks.plain import PlainLines


def display() -> Hook:
    """The display for where standard output goes."""
    console = Console()
    return LiveDisplay(console) if console.is_terminal else PlainLines(_say)


def _say(line: str) -> None:
    print(line, flush=True)
