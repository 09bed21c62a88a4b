"""Which weights of a checkpoint are quantised, by the method that its configuration names."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from turnout.config.errors import UserError
from turnout.convert.fp8 import fp8
from turnout.convert.mxfp4 import mxfp4
from turnout.convert.stored import Places, Quantised

METHODS: Mapping[object, Callable[[Path, Mapping[str, Any], Places], Quantised]] = {
    "fp8": fp8,
    "mxfp4": mxfp4,
}


def quantised(folder: Path, config: Mapping[str, Any], places: Places) -> Quantised:
    """The quantised weights; none without a ``quantization_config``.

    Raises:
        UserError: a method that this version does not know, or weights that do not fit theirs.
    """
    table = config.get("quantization_config")
    if table is None:
        return Quantised({}, frozenset(), "")
    method = table.get("quant_method") if isinstance(table, Mapping) else table
    if not isinstance(table, Mapping) or method not in METHODS:
        known = " or ".join(repr(name) for name in METHODS)
        raise UserError(
            f"config.json: quantization_config.quant_method = {method!r}: must be {known}; save "
            "the model without quantisation first"
        )
    return METHODS[method](folder, table, places)
