"""A chart of the report as PNG, over steps, in the light theme."""

import json
import re
from importlib import import_module
from typing import Any, Final

from turnout.probe.report.picture import LIGHT, Picture, config
from turnout.probe.style import smaller

_WIDTH: Final = 760
_SCALE: Final = 2.0
_STEPS: Final = "optimiser steps"


def png(picture: Picture, width: int = _WIDTH) -> bytes:
    """The picture with its title, note and legend."""
    spec = {
        **picture.spec,
        "width": width,
        "height": picture.height,
        "title": {"text": picture.title, "subtitle": picture.note},
        "datasets": {name: rows(columns) for name, columns in picture.data.items()},
        "config": {**config(), "background": "@paper", "padding": 20},
    }
    drawn = import_module("vl_convert").vegalite_to_png(
        json.dumps(coloured(spec), allow_nan=False), scale=_SCALE
    )
    return smaller(bytes(drawn))


def rows(columns: Any) -> list[dict[str, Any]]:
    """Columns as the rows that a chart reads; the step is the horizontal axis."""
    length = max(
        (len(value) for value in columns.values() if isinstance(value, list | tuple)), default=0
    )
    whole = {
        name: list(value) if isinstance(value, list | tuple) else [value] * length
        for name, value in columns.items()
    }
    for place, step in (("x", "step"), ("x2", "step2")):
        if step in whole:
            whole[place] = whole[step]
    return [dict(zip(whole, values, strict=True)) for values in zip(*whole.values(), strict=True)]


def coloured(value: Any) -> Any:
    """The named colours of ``picture`` in the light theme."""
    if isinstance(value, dict):
        return {name: coloured(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [coloured(each) for each in value]
    if value == "@axis":
        return _STEPS
    if isinstance(value, str) and value.startswith("@ramp:"):
        return _blend(float(value.removeprefix("@ramp:")))
    if isinstance(value, str) and value.startswith("@"):
        return LIGHT.get(value[1:], value)
    return value


def _blend(place: float) -> str:
    """A point between three colours: 0 is the first, 1 the last."""
    left, right = ("r0", "r1") if place <= 0.5 else ("r1", "r2")
    part = place * 2 if place <= 0.5 else place * 2 - 1
    ends = [re.findall("[0-9a-f]{2}", LIGHT[name]) for name in (left, right)]
    mixed = [round(int(a, 16) * (1 - part) + int(b, 16) * part) for a, b in zip(*ends, strict=True)]
    return "#" + "".join(f"{value:02x}" for value in mixed)
