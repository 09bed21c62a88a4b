"""Configurations as plain data: dictionaries, TOML text and dotted overrides.

A member of a union is tagged by ``kind``, or given by that name alone; None is written
``"none"``, since TOML has no null. Whatever is left out keeps the value of the base, or the
field's default without one.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, overload

import tomli_w

from turnout.config import presets
from turnout.config.convert import NONE, Text, convert
from turnout.config.errors import ConfigError, UserError
from turnout.config.train import RunConfig

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """``config`` as tables, lists and scalars that both JSON and TOML can hold."""
    kind = getattr(type(config), "kind", None)
    table = {} if kind is None else {"kind": kind}
    return table | {f.name: _plain(getattr(config, f.name)) for f in fields(config)}


def flat(table: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested tables as dotted names and values, in order."""
    found: list[tuple[str, Any]] = []
    for name, value in table.items():
        if isinstance(value, Mapping):
            found.extend(flat(value, f"{prefix}{name}."))
        else:
            found.append((prefix + name, value))
    return found


@overload
def from_dict(
    cls: type[T], data: Mapping[str, Any], base: T | None = None, path: str = ""
) -> T: ...


@overload
def from_dict(cls: object, data: Mapping[str, Any], base: Any = None, path: str = "") -> Any: ...


def from_dict(cls: object, data: Mapping[str, Any], base: Any = None, path: str = "") -> Any:
    """An object of ``cls``, a dataclass or a union of them, from (a part of) ``to_dict``'s table.

    Args:
        data: tables may give some of the fields only, at every level.
        base: fills what ``data`` leaves out. A table that changes ``kind`` starts afresh.
        path: the dotted name of ``data``, for error messages.

    Raises:
        UserError: an unknown field or kind, a value of the wrong type or outside its range, a
            required field missing; the message holds the dotted path.
    """
    return convert(cls, data, base, path)


def dump_toml(config: Any) -> str:
    """``config`` as TOML, every field written out."""
    return tomli_w.dumps(to_dict(config))


def parse_toml(text: str, base: RunConfig | None = None, source: str = "the text") -> RunConfig:
    """A run from TOML over ``base``, or without one over the preset that the text names.

    Raises:
        UserError: the text is not TOML, or as ``from_dict``.
    """
    return run_from_table(parse_table(text, source), base)


def load_toml(path: str | Path, base: RunConfig | None = None) -> RunConfig:
    """``parse_toml`` of a file.

    Raises:
        UserError: the file cannot be read as UTF-8 text, or as ``parse_toml``.
    """
    return run_from_table(load_table(path), base)


def parse_table(text: str, source: str = "the text") -> dict[str, Any]:
    """The tables of TOML.

    Raises:
        UserError: the text is not TOML.
    """
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"{source} is not valid TOML: {error}") from error


def load_table(path: str | Path) -> dict[str, Any]:
    """``parse_table`` of a file.

    Raises:
        UserError: the file cannot be read as UTF-8 text, or is not TOML.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {str(path)!r}: not UTF-8 text ({error.reason})") from error
    return parse_table(text, str(path))


def run_from_table(table: Mapping[str, Any], base: RunConfig | None = None) -> RunConfig:
    """A run over ``base``, or without one over the preset that the table names.

    Raises:
        UserError: as ``from_dict``.
    """
    return from_dict(RunConfig, table, _named_base(table) if base is None else base)


def override(config: T, options: Mapping[str, str], path: str = "") -> T:
    """``config`` with dotted options replaced: ``{"model.moe.num_experts": "16"}``.

    Names may use hyphens. A union takes the name of a kind: ``{"model.moe.router": "top_k"}``.
    ``path`` is the dotted name of ``config``, for error messages.

    Raises:
        UserError: as ``from_dict``.
    """
    tree: dict[str, Any] = {}
    for name, text in options.items():
        _insert(tree, name.replace("-", "_").split("."), Text(text))
    return from_dict(type(config), tree, config, path)


def _insert(tree: dict[str, Any], names: list[str], value: Text) -> None:
    """A name for a table and options below it may both be given: the name is its kind."""
    head, *rest = names
    inner = tree.get(head)
    if not rest and isinstance(inner, dict):
        inner["kind"] = value
    elif not rest:
        tree[head] = value
    else:
        if not isinstance(inner, dict):
            inner = {} if inner is None else {"kind": inner}
        tree[head] = inner
        _insert(inner, rest, value)


def _named_base(data: Mapping[str, Any]) -> RunConfig | None:
    name = data.get("preset", RunConfig.preset)
    if name == RunConfig.preset:
        return None
    if not isinstance(name, str):
        raise ConfigError("preset", name, "the name of a preset")
    objective = data.get("objective")
    kind = objective.get("kind") if isinstance(objective, dict) else objective
    return presets.run(name, kind if isinstance(kind, str) else None)


def _plain(value: Any) -> Any:
    if value is None:
        return NONE
    if is_dataclass(value):
        return to_dict(value)
    if isinstance(value, Mapping):
        return dict(value)
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value
