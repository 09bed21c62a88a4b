"""JSON that can stand inside an HTML script element."""

import json
import math
from typing import Any, Final

_ESCAPES: Final = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}
_DIGITS = 6


def island(value: Any) -> str:
    """``value`` as ASCII JSON without ``<``, ``>`` or ``&``: no text in it can end an element.

    Floats are rounded to six significant digits; one that is not finite becomes null.
    """
    return json.dumps(_plain(value), allow_nan=False, separators=(",", ":")).translate(_ESCAPES)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
