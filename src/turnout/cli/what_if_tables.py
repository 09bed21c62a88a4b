"""What a trace says as tables on a terminal."""

from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from turnout.simulate.what_if.answers import Answers
from turnout.simulate.what_if.drops import LayerDrops


def show(answers: Answers) -> None:
    """Print all four answers."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    tables = (
        ("Assignments dropped, by capacity factor", _drops(answers)),
        ("Rows at the fullest rank over the mean, experts in order", _stragglers(answers)),
        (_fitted("Better placement", answers), _placements(answers)),
        (
            _fitted(f"Copies of the fullest experts on {answers.ranks} ranks", answers),
            _copies(answers),
        ),
    )
    console.print(Text(_heading(answers)), soft_wrap=True)
    for title, table in tables:
        console.print(Text(f"\n{title}", style="bold"), soft_wrap=True)
        console.print(table)


def _heading(answers: Answers) -> str:
    factor = "none" if answers.factor is None else f"{answers.factor:g}"
    return (
        f"{answers.preset} by {answers.trace}: {answers.tokens:,} routed tokens in "
        f"{answers.batches} micro-batches of {answers.rows} rows; capacity factor of training "
        f"{factor}"
    )


def _fitted(what: str, answers: Answers) -> str:
    first = answers.batches // 2
    return (
        f"{what}: slow-down of the experts' compute, dropless; fitted on the first {first} "
        f"micro-batches, measured on the other {answers.batches - first}"
    )


def _drops(answers: Answers) -> Table:
    found = answers.drops
    named = (f"for {limit:g}" for limit in found.limits)
    table = _table("factor", (*(f"{factor:g}" for factor in found.factors), *named))
    for layer in (*found.layers, found.whole):
        shares = (f"{share:.2%}" for share in layer.dropped)
        table.add_row(layer.layer, *shares, *_needed(layer))
    table.add_row("slots that stay empty", *(f"{share:.1%}" for share in found.whole.empty))
    return table


def _needed(layer: LayerDrops) -> Iterable[str]:
    return ("more" if factor is None else f"{factor:.2f}" for factor in layer.needed)


def _stragglers(answers: Answers) -> Table:
    found = answers.stragglers
    table = _table("ranks", (f"{ranks}" for ranks in found.ranks))
    for layer, values in found.layers.items():
        table.add_row(layer, *map(_times, values))
    table.add_row("the step", *map(_times, found.step))
    if found.bounded_step:
        table.add_row(f"the step, capacity {found.factor:g}", *map(_times, found.bounded_step))
    return table


def _placements(answers: Answers) -> Table:
    names = ("in order", "placed", "none goes below", "in order, fitted", "placed, fitted")
    table = _table("ranks", names)
    for each in answers.placements:
        values = (each.contiguous, each.better, each.bound, each.contiguous_fitted, each.fitted)
        table.add_row(f"{each.ranks}", *map(_times, values))
    return table


def _copies(answers: Answers) -> Table:
    table = _table("spare places a rank", ("slow-down", "fitted", "more MB a rank"))
    table.add_row(
        "in order", _times(answers.placed.contiguous), _times(answers.placed.contiguous_fitted), "0"
    )
    for each in answers.replicas:
        size = f"{each.bytes / 1e6:,.1f}"
        table.add_row(f"{each.spare}", _times(each.slow_down), _times(each.fitted), size)
    return table


def _times(value: float) -> str:
    return f"{value:.3f}"


def _table(first: str, others: Iterable[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table
