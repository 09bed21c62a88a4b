"""What a page is made of: plain values that its script turns into elements.

Every string in them reaches the page as text, never as markup.
"""

from collections.abc import Sequence
from typing import Any

from turnout.probe.report.picture import Picture

Block = dict[str, Any]


def section(name: str, title: str, blocks: Sequence[Block]) -> Block:
    """A part of the page with a heading and an entry in its contents."""
    return {"name": name, "title": title, "blocks": list(blocks)}


def text(value: str) -> Block:
    """A paragraph."""
    return {"type": "text", "text": value}


def heading(value: str) -> Block:
    """A heading within a section."""
    return {"type": "heading", "text": value}


def figure(label: str, value: str, note: str = "") -> dict[str, str]:
    """A number that matters, what it is, and a word about it."""
    return {"label": label, "value": value, "note": note}


def figures(items: Sequence[dict[str, str]]) -> Block:
    """Figures side by side."""
    return {"type": "figures", "items": list(items)}


def chart(picture: Picture) -> Block:
    """One chart."""
    return {"type": "chart", "chart": picture.to_dict()}


def group(charts: Sequence[Block], across: int, keys: Sequence[Any] = ()) -> Block:
    """Charts, up to ``across`` side by side where there is room, and their common legend."""
    return {
        "type": "charts",
        "items": list(charts),
        "across": across,
        "keys": [vars(key) for key in keys],
    }


def table(
    caption: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: Sequence[int] = (),
    folded: bool = False,
) -> Block:
    """A table; the columns in ``numbers`` are set right, a ``folded`` one opens on demand."""
    return {
        "type": "table",
        "caption": caption,
        "header": list(header),
        "rows": [list(row) for row in rows],
        "numbers": list(numbers),
        "folded": folded,
    }


def code(label: str, value: str, *, folded: bool = False) -> Block:
    """Lines to read or copy as they are."""
    return {"type": "code", "label": label, "text": value, "folded": folded}
