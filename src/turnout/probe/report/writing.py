"""From run folders to files: a report, a comparison, PNG pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from turnout.config.errors import UserError
from turnout.probe.report.comparison import comparison_document
from turnout.probe.report.facts import Facts, gather, measured_facts
from turnout.probe.report.page import html
from turnout.probe.report.png import png
from turnout.probe.report.run_page import pictures, run_document
from turnout.probe.run import Measured
from turnout.probe.style import altair

REPORT: Final = "report.html"
COMPARISON: Final = "comparison.html"
PICTURES: Final = "pictures"


def write(
    run_folder: Path,
    out: Path | None = None,
    *,
    bits: Mapping[str, float] | None = None,
    measured: Measured | None = None,
) -> Path:
    """Write the report of a run.

    Args:
        run_folder: of a run, or one of its step folders.
        out: the file; ``report.html`` in the run's folder by default.
        bits: the baselines' names and bits when they are known; measured here otherwise.
        measured: what the newest checkpoint does, when that is known; measured here otherwise.

    Returns:
        The file written.

    Raises:
        UserError: the pictures extra is not installed, or the folder holds no metrics.
    """
    altair()
    facts = measured_facts(gather(run_folder), measured, bits)
    return _save(out or facts.folder / REPORT, run_document(facts))


def compare(run_folders: Sequence[Path], out: Path | None = None) -> Path:
    """Write one page that compares runs; by default beside the first of them.

    Raises:
        UserError: the pictures extra is not installed, or a folder holds no metrics.
    """
    altair()
    runs = [gather(folder) for folder in run_folders]
    _distinct(runs)
    return _save(out or runs[0].folder.parent / COMPARISON, comparison_document(runs))


def write_pictures(run_folder: Path, out: Path | None = None) -> tuple[Path, ...]:
    """``write``, and the charts over time as PNG files in ``pictures/`` of the run folder.

    Raises:
        UserError: the pictures extra is not installed, or the folder holds no metrics.
    """
    altair()
    facts = measured_facts(gather(run_folder), None, None)
    written = [_save(out or facts.folder / REPORT, run_document(facts))]
    folder = facts.folder / PICTURES
    folder.mkdir(exist_ok=True)
    for picture in pictures(facts):
        written.append(folder / f"{picture.name}.png")
        written[-1].write_bytes(png(picture))
    return tuple(written)


def _distinct(runs: Sequence[Facts]) -> None:
    """Raises UserError if a folder is given twice."""
    seen: set[Path] = set()
    for facts in runs:
        place = facts.folder.resolve()
        if place in seen:
            raise UserError(f"{facts.folder}: given twice; a comparison takes each run once")
        seen.add(place)


def _save(path: Path, document: dict[str, Any]) -> Path:
    """Written whole or not at all: beside its place, then renamed into it."""
    if path.is_dir():
        raise UserError(f"--out {path}: is a folder; name the HTML file")
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.part")
    try:
        half.write_text(html(document), encoding="utf-8", newline="\n")
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)
    return path
