"""A plan as tables on a terminal."""

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from turnout.plan.communication import collectives
from turnout.plan.cost import seconds_of
from turnout.plan.search import Layout
from turnout.plan.work import LOADS

if TYPE_CHECKING:
    from turnout.cli.plan import Answer

_SCALES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def show(answer: "Answer", top: int) -> None:
    """Print everything that a plan says."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    for line in _header(answer):
        console.print(Text(line))
    console.print(_ranking(answer, top))
    console.print(_memory(answer.best))
    console.print(_collectives(answer.best))
    for line in _closing(answer):
        console.print(Text(line), soft_wrap=True)


def _header(answer: "Answer") -> list[str]:
    question, work = answer.question, answer.best.work
    count = question.config.model.param_count()
    row, tokens = work.anatomy.row.total, work.anatomy.row_tokens
    parts = (f"{name} {_short(size)}" for name, size in count.components.as_dict().items() if size)
    device = question.device
    return [
        f"{question.config.preset}: {count.total:,} parameters, {count.active:,} active a token",
        f"  {', '.join(parts)}",
        f"  {_short(row / tokens)}FLOP a token forward, {_short(3 * row / tokens)}FLOP in "
        f"training; {tokens:,} tokens a row, {question.config.train.batch_rows:,} rows a step",
        f"{question.ranks:,} x {device.name}: {_bytes(device.memory)}, "
        f"{_short(device.products(work.entry))}FLOP/s, {_bytes(device.bandwidth)}/s; "
        f"{_bytes(device.link)}/s in a node of {device.node}, {_bytes(device.network)}/s beyond",
    ]


def _ranking(answer: "Answer", top: int) -> Table:
    shown = answer.found[: max(top, 1)]
    title = f"{len(shown)} of {len(answer.found)} layouts, the fastest that fit first"
    table = _table(title, "data", "fsdp", "expert", "tensor", "seq", "micro", "recompute")
    for name in ("memory", "worst", "step", "tokens/day", "of peak"):
        table.add_column(name, justify="right")
    for layout in shown:
        plan, train, outlook = layout.plan, layout.config.train, answer.of(layout)
        table.add_row(
            *(f"{size:,}" for size in (plan.data or 1, plan.dense_shards, plan.expert)),
            f"{plan.tensor}",
            "yes" if plan.sequence else "",
            f"{train.micro_batches}",
            "yes" if train.recompute else "",
            _bytes(layout.expected.peak),
            _bytes(layout.memory("worst").peak),
            _seconds(layout.time.step),
            _short(outlook.tokens_a_day),
            f"{outlook.utilisation:.0%}",
            style="" if layout.fits else "dim",
        )
    return table


def _memory(layout: Layout) -> Table:
    table = _table("Memory of one rank, best layout", "component")
    for load in LOADS:
        table.add_column(load, justify="right")
    found = [layout.memory(load) for load in LOADS]
    for name in found[0].components():
        table.add_row(name, *(_bytes(memory.components()[name]) for memory in found))
    table.add_section()
    table.add_row("peak", *(_bytes(memory.peak) for memory in found))
    table.add_row("alive most in", *(memory.fullest.name for memory in found))
    return table


def _collectives(layout: Layout) -> Table:
    table = _table("Collectives of one rank and step, best layout", "what", "operation", "over")
    for name in ("ranks", "calls", "bytes a call", "bytes", "time"):
        table.add_column(name, justify="right")
    for each in collectives(layout.work, "balanced"):
        table.add_row(
            each.what,
            each.operation.replace("_", "-"),
            each.axis,
            f"{each.group:,}",
            f"{each.count:,}",
            _bytes(each.size),
            _bytes(each.total),
            _seconds(seconds_of(each, layout.device, layout.assumed)),
        )
    return table


def _closing(answer: "Answer") -> list[str]:
    best, outlook = answer.best, answer.outlook
    parts = sorted(best.time.parts().items(), key=lambda part: -part[1])
    lines = [
        f"a step: {_seconds(best.time.step)} "
        f"({', '.join(f'{name} {_seconds(size)}' for name, size in parts if size)})",
        f"{outlook.tokens_a_step:,} tokens a step, {_short(outlook.tokens_a_day)} a day, "
        f"{outlook.utilisation:.0%} of the peak",
    ]
    if outlook.steps is not None and outlook.seconds is not None:
        energy = outlook.kilowatt_hours or 0.0
        cost = "" if outlook.cost is None else f", {outlook.cost:,.0f} in the prices' money"
        lines.append(
            f"{_short(answer.tokens or 0)} tokens: {outlook.steps:,} steps, "
            f"{_seconds(outlook.seconds)}, {energy:,.0f} kWh{cost}"
        )
    if not best.fits:
        return [*lines, "", *_unfit(answer)]
    if not best.fits_always:
        lines.append(
            "not enough memory for the worst case, all tokens of a layer on one rank's experts; "
            "a capacity factor bounds it (model.moe.train_capacity_factor)"
        )
    where = "" if answer.question.ranks <= best.device.node else "on every node: "
    return [*lines, "", f"{where}{answer.command}"]


def _unfit(answer: "Answer") -> list[str]:
    best = answer.best
    lines = [
        f"no layout fits: the smallest takes {_bytes(best.expected.peak)} of "
        f"{_bytes(best.room)} on a device"
    ]
    if not answer.remedies:
        return [*lines, "nothing that was tried fits either"]
    return [
        *lines,
        "it would fit with one of:",
        *(f"  {' '.join(each.options)}   ({each.words})" for each in answer.remedies),
    ]


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for name in columns:
        table.add_column(name, justify="left" if columns[0] in ("what", "component") else "right")
    return table


def _short(value: float | int) -> str:
    """``1234567`` -> ``1.23M``."""
    for scale, letter in _SCALES:
        if abs(value) >= scale:
            return f"{value / scale:.3g}{letter}" if value < 1e21 else f"{value:.2e}"
    return f"{value:.3g}"


def _bytes(value: float | int) -> str:
    """``1234567`` -> ``1.23 MB``."""
    text = _short(value)
    return f"{text[:-1]} {text[-1]}B" if text[-1].isalpha() else f"{text} B"


def _seconds(value: float) -> str:
    """``0.0123`` -> ``12.3 ms``; above a minute in the unit that fits."""
    for unit, size in (("d", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if value >= 2 * size:
            return f"{value / size:,.3g} {unit}" if value < 1e4 * size else f"{value / size:,.0f} d"
    if value >= 1:
        return f"{value:.3g} s"
    return f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} us"
