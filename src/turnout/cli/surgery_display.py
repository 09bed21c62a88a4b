"""A receipt as a short table."""

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from turnout.surgery.receipt import Receipt


def show(receipt: Receipt, folder: Path | None) -> None:
    """Print it; ``folder`` is None where nothing was written."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    for source in receipt.sources:
        bits = "" if source.bits is None else f", {source.bits:.4f} bits per byte"
        console.print(
            Text(f"{source.path}: {source.parameters:,} parameters{bits}"), soft_wrap=True
        )
    table = Table(title=receipt.operation, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("")
    for name in ("before", "after"):
        table.add_column(name, justify="right")
    for row in receipt.rows():
        table.add_row(*row)
    console.print(table)
    for line in receipt.lines():
        console.print(Text(line), soft_wrap=True)
    said = "nothing written (--dry-run)" if folder is None else f"{folder}: written"
    console.print(Text(said), soft_wrap=True)
