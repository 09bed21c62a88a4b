"""A result as Markdown and as JSON."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from turnout.bench.suite import Result, Row, Value
from turnout.bench.timing import Spread
from turnout.config.errors import UserError

FORMAT: Final = 1


def figure(value: Value) -> str:
    """Numbers with three digits that count, all digits of whole ones; words as they are."""
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else value
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    digits = 2 if abs(value) >= 1 else 3
    shown = f"{value:.{digits}f}"
    return shown if float(shown) else f"{value:.1e}"


def spread(found: Spread) -> str:
    """The median, with the quartiles in brackets."""
    return f"{figure(found.median)} ({figure(found.low)} to {figure(found.high)})"


def markdown(result: Result) -> str:
    """Tables, a line a way of each contest, between what was measured on and what was left out."""
    blocks = [_head(result)]
    blocks += [_table(list(rows)) for _, rows in groupby(result.rows, key=_columns)]
    blocks += [_reached(result.rows), *_left_out(result.rows)]
    return "\n\n".join(blocks) + "\n"


def to_json(result: Result) -> str:
    """Everything, every repeat's seconds included."""
    return json.dumps({"format": FORMAT, **asdict(result)}, indent=2) + "\n"


def from_json(text: str) -> Result:
    """The result that was written.

    Raises:
        UserError: the text is something else, or of another format.
    """
    try:
        data = json.loads(text)
        if data.pop("format") != FORMAT:
            raise ValueError
        rows = tuple(_row(each) for each in data.pop("rows"))
        return Result(rows=rows, **data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"not a result of `turnout bench` in format {FORMAT}") from error


def write(result: Result, path: Path) -> None:
    """Writes the JSON."""
    path.write_text(to_json(result), encoding="utf-8")


def _row(data: dict[str, Any]) -> Row:
    lists = {name: tuple(data[name]) for name in ("bases", "peak", "bandwidth")}
    seconds = {way: tuple(each) for way, each in data["seconds"].items()}
    given = {**data, **lists, "seconds": seconds}
    if given.keys() != {each.name for each in fields(Row)}:
        raise ValueError
    return Row(**given)


def _columns(row: Row) -> tuple[str, ...]:
    more = (name for cells in row.cells.values() for name in cells)
    return (row.suite, *row.facts, row.unit, *row.bases, *dict.fromkeys(more))


def _head(result: Result) -> str:
    machine = result.machine
    kernels = " and ".join(machine["kernels"]) or "no"
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"# turnout bench {result.suite}\n\n"
        f"Medians of {result.options['repeats']} interleaved repeats, quartiles in brackets; each "
        "pair was found equal before it was timed, and how far it is apart stands in the last "
        f"column.\n\nCommand: `{result.command}`\n\n"
        f"{machine['processor']}, {machine['system']}, {machine['capability']}, "
        f"{machine['cores']} cores, {machine['threads']} threads; freed memory is "
        f"{machine['freed_memory']}; {kernels} kernels in C++; {versions}; {machine['date']}."
    )


def _table(rows: Sequence[Row]) -> str:
    row = rows[0]
    more = list(dict.fromkeys(n for each in rows for cells in each.cells.values() for n in cells))
    peak = any(each.flops for each in rows)
    head = [*row.facts, "way", row.unit]
    head += [f"over {base}" for base in row.bases]
    head += [*(["of the peak"] if peak else []), *more, "apart"]
    lines = [head, ["---"] * len(head)]
    for each in rows:
        lines += _lines(each, more, peak)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _lines(row: Row, more: Sequence[str], peak: bool) -> Iterator[list[str]]:
    where = [figure(value) for value in row.facts.values()]
    for way, seconds in row.seconds.items():
        cells = [*where, way, spread(Spread.of([1e3 * each / row.parts for each in seconds]))]
        cells += ["" if way == base else spread(row.times.ratio(way, base)) for base in row.bases]
        share = row.of_peak(way)
        cells += ["" if share is None else f"{share:.0%}"] if peak else []
        cells += [figure(row.cells.get(way, {}).get(name, "")) for name in more]
        apart = row.differences.get(way)
        yield [*cells, "" if apart is None else figure(float(apart))]


def _reached(rows: Iterable[Row]) -> str:
    """What the machine reached between the contests."""
    peaks: dict[str, list[float]] = {}
    reads = [each / 1e9 for row in rows for each in row.bandwidth]
    for row in rows:
        peaks.setdefault(row.dtype, []).extend(each / 1e9 for each in row.peak)
    parts = [f"{spread(Spread.of(each))} GFLOP/s in {dtype}" for dtype, each in peaks.items()]
    return (
        f"Reached in between: products {'; '.join(parts)}; reads of memory "
        f"{spread(Spread.of(reads))} GB/s."
        if reads
        else "Nothing was measured."
    )


def _left_out(rows: Iterable[Row]) -> list[str]:
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        where = ", ".join(f"{name} {figure(value)}" for name, value in row.facts.items())
        for way, reason in row.left_out.items():
            reasons.setdefault((way, reason), []).append(where)
    lines = [
        f"- {way}: {reason}" + (f" ({places[0]})" if len(places) == 1 else "")
        for (way, reason), places in reasons.items()
    ]
    return ["Left out:\n\n" + "\n".join(lines)] if lines else []
