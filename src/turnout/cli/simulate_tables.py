"""A simulated step as tables on a terminal."""

from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from turnout.config.parallel import ParallelPlan
from turnout.config.train import RunConfig
from turnout.simulate.compare import Comparison, Line
from turnout.simulate.simulation import RankCost

Found = Mapping[str, RankCost]


def show(
    run: RunConfig, plan: ParallelPlan, load: str, found: Found, comparison: Comparison | None
) -> None:
    """Print everything that a simulation says."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    console.print(
        f"{run.preset} on {plan.ranks:,} ranks: data {plan.data}, fsdp {plan.fsdp}, expert "
        f"{plan.expert}, tensor {plan.tensor}; {run.train.batch_rows:,} rows in "
        f"{run.train.micro_batches} micro-batches, {run.train.dtype}, load {load}",
        soft_wrap=True,
        highlight=False,
    )
    console.print(_ranks(found))
    console.print(_collectives(found["most loaded"]))
    if comparison is not None:
        console.print(_lines("bytes, against the plan", comparison.memory))
        console.print(_verdict(comparison), highlight=False)


def _ranks(found: Found) -> Table:
    table = _table("MB on one rank", *(f"{name} ({cost.rank})" for name, cost in found.items()))
    for name in found["first"].cost.memory.components():
        sizes = (cost.cost.memory.components()[name] for cost in found.values())
        table.add_row(name, *(f"{size / 1e6:,.1f}" for size in sizes))
    table.add_row("TFLOP", *(f"{cost.cost.flops / 1e12:,.3f}" for cost in found.values()))
    table.add_row("rows that came to experts", *(f"{cost.arrived:,}" for cost in found.values()))
    table.add_row("mean of its axis", *(f"{cost.mean_arrived:,.0f}" for cost in found.values()))
    table.add_row("simulated in s", *(f"{cost.seconds:.1f}" for cost in found.values()))
    return table


def _collectives(cost: RankCost) -> Table:
    table = _table(f"collectives of rank {cost.rank}", "axis", "ranks", "calls", "MB each", "MB")
    for each in cost.cost.collectives:
        sizes = (each.size / 1e6, each.count * each.size / 1e6)
        numbers = (f"{each.group:,}", f"{each.count:,}", *(f"{size:,.3f}" for size in sizes))
        table.add_row(each.operation, each.axis, *numbers)
    return table


def _lines(title: str, lines: tuple[Line, ...]) -> Table:
    table = _table(title, "planned", "simulated", "apart")
    for line in lines:
        numbers = (f"{line.planned:,}", f"{line.simulated:,}", f"{line.apart:+.1%}")
        table.add_row(line.what, *numbers)
    return table


def _verdict(comparison: Comparison) -> Table | str:
    kinds = comparison.collectives
    if comparison.same_collectives:
        calls = sum(line.simulated for line in kinds)
        return f"collectives: {calls:,} calls of {len(kinds)} kinds, all as planned"
    other = tuple(line for line in kinds if line.planned != line.simulated)
    return _lines("calls that were not as planned", other)


def _table(first: str, *others: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table
