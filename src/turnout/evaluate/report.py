"""Results as lines for people and as plain data for programs."""

from collections.abc import Sequence
from typing import Any

from turnout.evaluate.metrics.measure import Measure
from turnout.evaluate.metrics.uncertainty import Difference, interval
from turnout.evaluate.run import Options, Result

HEAD = ("task", "measure", "score", "95% interval", "chance", "n")


def result_lines(result: Result, options: Options) -> list[tuple[str, ...]]:
    """Rows of a table: all measures of all examples, then the main one of each domain."""
    lines = []
    for measure in result.measures:
        lines.append(_line(result.task.name, measure, options.seed))
    for name, found in result.domains.items():
        lines.append(_line(f"  {name}", found[0], options.seed))
    return lines


def result_data(result: Result, options: Options) -> dict[str, Any]:
    """A task's result as JSON holds it."""
    return {
        "task": result.task.name,
        "kind": result.task.kind,
        "examples": len(result.scored),
        "cut": result.cut,
        "measures": {each.name: _data(each, options.seed) for each in result.measures},
        "domains": {
            name: {each.name: _data(each, options.seed) for each in found}
            for name, found in result.domains.items()
        },
    }


def difference_line(
    task: str, measure: Measure, other: Measure, found: Difference
) -> tuple[str, ...]:
    """A row of a table of comparisons."""
    return (
        task,
        measure.name,
        number(measure.value),
        number(other.value),
        f"{found.value:+.4f}",
        f"{found.interval.low:+.4f} to {found.interval.high:+.4f}",
        f"{found.p:.4f}" if found.p >= 0.0001 else "<0.0001",
        found.test,
    )


def number(value: float) -> str:
    """Four places behind the point, fewer where it is large."""
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.1f}"


def aligned(rows: Sequence[Sequence[str]], left: int = 2) -> str:
    """Rows of text in columns; the first ``left`` to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _line(task: str, measure: Measure, seed: int) -> tuple[str, ...]:
    sure = interval(measure, seed)
    between = f"{number(sure.low)} to {number(sure.high)}"
    chance = "" if measure.chance is None else number(measure.chance)
    return (task, measure.name, number(measure.value), between, chance, f"{measure.count:,}")


def _data(measure: Measure, seed: int) -> dict[str, Any]:
    sure = interval(measure, seed)
    table = {"value": measure.value, "low": sure.low, "high": sure.high, "n": measure.count}
    return table | ({} if measure.chance is None else {"chance": measure.chance})
