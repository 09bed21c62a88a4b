"""A whole comparison: train what is missing, work out the figures, write them down."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from turnout.compare import charts
from turnout.compare.analysis import Comparison, compare
from turnout.compare.process import Launch, launch_process
from turnout.compare.runner import Progress, run_all
from turnout.compare.tables import to_json, to_markdown
from turnout.config.compare import Protocol
from turnout.probe.style import available

FIGURES, PAGE = "comparison.json", "comparison.md"


@dataclass(frozen=True)
class Conducted:
    """The figures, and the files that hold them; no picture where altair is missing."""

    comparison: Comparison
    folder: Path
    figures: Path
    page: Path
    pictures: tuple[Path, ...]


def conduct(
    protocol: Protocol,
    folder: Path,
    say: Callable[[Progress], None],
    command: str = "",
    launch: Launch | None = None,
    jobs: int = 1,
) -> Conducted:
    """Carry out ``protocol`` in ``folder``, going on with what is there of it.

    Args:
        say: told how it goes.
        command: how this was called, for the page.
        launch: how a run is trained; in a process of its own by default.
        jobs: runs at once.

    Raises:
        UserError: as ``runner.run_all`` and ``analysis.compare``.
    """
    launch = launch or partial(launch_process, at_once=jobs)
    comparison = compare(protocol, run_all(protocol, folder, say, launch, jobs))
    figures, page = folder / FIGURES, folder / PAGE
    figures.write_text(to_json(comparison, command), encoding="utf-8")
    pictures = charts.draw(comparison, folder) if available() else ()
    names = [picture.name for picture in pictures]
    page.write_text(to_markdown(comparison, command, names), encoding="utf-8")
    return Conducted(comparison, folder, figures, page, pictures)
