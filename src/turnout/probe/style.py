"""How pictures look, and the library that draws them, which is an extra."""

import struct
import zlib
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from turnout.config.errors import UserError

Chart = Any
"""A chart of altair's; the library may be missing, so that its types are not named."""

INSTALL: Final = "pip install 'turnout[pictures]'"

INK, QUIET, FAINT, GRID = "#1f2933", "#52606d", "#9aa5b1", "#e4e7eb"
BLUE, ORANGE, PALE = "#1f5fa8", "#c2500f", "#a9c6e8"
RARE_TO_OFTEN: Final = ("#2a5a94", "#84abd3", "#f5f5f3", "#eeaa79", "#b4470c")
FONT: Final = "Liberation Sans, Arial, Helvetica, sans-serif"
MONO: Final = "Liberation Mono, DejaVu Sans Mono, Menlo, monospace"
SIZE: Final = 14


def available() -> bool:
    """Whether pictures can be drawn here."""
    return all(find_spec(name) is not None for name in ("altair", "vl_convert"))


def altair() -> Any:
    """The drawing library.

    Raises:
        UserError: it is not installed.
    """
    try:
        import_module("vl_convert")
        return import_module("altair")
    except ImportError:
        raise UserError(
            f"pictures need altair and vl-convert-python, which are missing; {INSTALL}"
        ) from None


def styled(chart: Chart) -> Chart:
    """``chart`` with the fonts, colours and spacing of all pictures; of a whole picture only."""
    return (
        chart.configure(font=FONT, background="white", padding=24)
        .configure_view(stroke=None)
        .configure_axis(
            labelFontSize=SIZE,
            titleFontSize=SIZE,
            titleFontWeight="normal",
            labelColor=QUIET,
            titleColor=QUIET,
            gridColor=GRID,
            domainColor=FAINT,
            tickColor=FAINT,
            labelLimit=400,
            titleLimit=0,
        )
        .configure_title(
            anchor="start",
            fontSize=17,
            color=INK,
            subtitleColor=QUIET,
            subtitleFontSize=SIZE,
            subtitlePadding=5,
            offset=14,
            limit=0,
        )
        .configure_legend(
            labelFontSize=SIZE,
            titleFontSize=SIZE,
            titleFontWeight="normal",
            labelColor=QUIET,
            titleColor=QUIET,
            labelLimit=0,
            titleLimit=0,
        )
        .configure_concat(spacing=14)
    )


def panel(title: str, subtitle: list[str], parts: Sequence[Chart]) -> Chart:
    """``parts`` one below the other under a heading, whose subtitle is a line an item.

    The heading stands over an empty view of its own: concatenated parts are aligned by their
    first views, so that the headings of neighbours are level whatever stands over their axes.
    """
    alt = altair()
    heading = alt.Title(title, subtitle=subtitle, offset=0, frame="group")
    empty = alt.Chart(alt.Data(values=[{}])).mark_point(opacity=0)
    head = empty.properties(width=1, height=1, title=heading)
    return alt.vconcat(head, *parts, spacing=18).resolve_scale(color="independent")


def save(chart: Chart, path: Path, scale: float = 2.0) -> Path:
    """Write a picture as PNG, ``scale`` pixels a unit of length; returns ``path``."""
    drawn = BytesIO()
    styled(chart).save(drawn, format="png", scale_factor=scale)
    path.write_bytes(smaller(drawn.getvalue()))
    return path


def smaller(png: bytes) -> bytes:
    """The same picture with its data compressed as well as can be, to a third of the size.

    A PNG is a signature of 8 bytes and chunks: length, kind, content, CRC of the last two.
    """
    chunks = list(_chunks(png))
    pixels = zlib.decompress(b"".join(content for kind, content in chunks if kind == b"IDAT"))
    first = next(index for index, (kind, _) in enumerate(chunks) if kind == b"IDAT")
    others = [chunk for chunk in chunks if chunk[0] != b"IDAT"]
    others.insert(first, (b"IDAT", zlib.compress(pixels, 9)))
    return png[:8] + b"".join(
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in others
    )


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at < len(png):
        size, kind = struct.unpack(">I4s", png[at : at + 8])
        yield kind, png[at + 8 : at + 8 + size]
        at += size + 12
