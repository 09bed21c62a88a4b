"""Rotary positions in a ``config.json``, by any version of transformers."""

from collections.abc import Mapping
from typing import Any

from turnout.config.errors import UserError
from turnout.config.positions import Rotary
from turnout.config.rotary_scaling import (
    LinearScaling,
    Llama3Scaling,
    RotaryScaling,
    YarnScaling,
)
from turnout.convert.families.base import Read

NUMBERS = ("beta_fast", "beta_slow", "mscale", "mscale_all_dim", "attention_factor")
YARN = (*NUMBERS, "truncate")
OF_LLAMA = {"low_frequency": "low_freq_factor", "high_frequency": "high_freq_factor"}
KNOWN = {
    *("rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings", *YARN),
    *OF_LLAMA.values(),
}


def read_rotary(
    values: Read, *, interleaved: bool = False, absent: Mapping[str, Any] | None = None
) -> Rotary:
    """The positions; ``absent`` is the family's table where the configuration has none.

    Raises:
        UserError: they are scaled in a way that this version does not know, or parts are missing.
    """
    absent = absent or {}
    table = values.value("rope_parameters") or values.value("rope_scaling") or absent
    if not isinstance(table, Mapping):
        raise UserError(f"config.json: rope_parameters = {table!r}: must be a table")
    unknown = sorted(table.keys() - KNOWN)
    if unknown:
        raise UserError(f"config.json: rope_parameters.{unknown[0]}: is not known to this version")
    usual = absent.get("rope_theta", 10_000.0)
    theta = Read(table).number("rope_theta", values.number("rope_theta", usual))
    return Rotary(theta, _scaling(table, values), interleaved)


def write_rotary(positions: Rotary) -> dict[str, Any]:
    """The fields of positions whose whole heads are rotated."""
    table: dict[str, Any] = {"rope_type": "default", "rope_theta": positions.theta}
    scaling = positions.scaling
    if scaling is not None:
        table |= {"rope_type": scaling.kind, "factor": scaling.factor}
    if isinstance(scaling, YarnScaling | Llama3Scaling):
        table["original_max_position_embeddings"] = scaling.original_length
    if isinstance(scaling, YarnScaling):
        own = {name: getattr(scaling, name) for name in YARN}
        table |= {name: value for name, value in own.items() if value is not None}
    if isinstance(scaling, Llama3Scaling):
        table |= {theirs: getattr(scaling, ours) for ours, theirs in OF_LLAMA.items()}
    return {"rope_theta": positions.theta, "rope_parameters": table}


def _scaling(table: Mapping[str, Any], values: Read) -> RotaryScaling | None:
    kind = table.get("rope_type", table.get("type", "default"))
    own = Read(table)
    if kind == "default":
        return None
    if kind == "linear":
        return LinearScaling(own.number("factor"))
    asked = values.value("max_position_embeddings")
    trained = own.whole("original_max_position_embeddings", asked)
    if kind == "yarn":
        given: dict[str, Any] = {
            name: own.number(name) for name in NUMBERS if own.value(name) is not None
        }
        given["truncate"] = own.flag("truncate", True)
        if "mscale_all_dim" not in given:
            given.pop("mscale", None)  # which counts by their quotient alone
        return YarnScaling(own.number("factor"), trained, **given)
    if kind == "llama3":
        bounds = {ours: own.number(theirs) for ours, theirs in OF_LLAMA.items()}
        return Llama3Scaling(own.number("factor"), trained, **bounds)
    raise UserError(
        f"config.json: rope_parameters.rope_type = {kind!r}: must be default, linear, yarn or "
        "llama3"
    )
