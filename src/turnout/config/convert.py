"""Plain data to frozen dataclasses, directed by the field types; every error holds its path."""

import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from turnout.config.errors import ConfigError, UserError, nearest

NONE = "none"
CUSTOM = "custom"  # the kind of what is named by module:Class


@dataclass(frozen=True)
class Text:
    """A value typed on the command line: what it means depends on the field it is for."""

    text: str

    def parsed(self) -> Any:
        """As a TOML value, or the text itself where it is none."""
        try:
            table = tomllib.loads(f"value = {self.text}")
        except (tomllib.TOMLDecodeError, RecursionError):
            return self.text
        return table["value"] if len(table) == 1 else self.text


def convert(hint: Any, value: Any, base: Any, path: str) -> Any:
    """``value`` as ``hint`` asks; ``base``, or None, fills what a table leaves out.

    Raises:
        UserError: an unknown field or kind, a value of the wrong type or outside its range, a
            required field missing.
    """
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return _union(get_args(hint), value, base, path)
    if origin is Literal:
        return _literal(get_args(hint), _shown(value), path)
    if origin is tuple:
        return _tuple(get_args(hint)[0], value, base, path)
    if origin is Mapping:
        return _mapping(value, path)
    if is_dataclass(hint):
        return _dataclass(hint, value, base, path)
    return _scalar(hint, value, path)


def join(path: str, name: str) -> str:
    """The dotted name of a field below ``path``."""
    return f"{path}.{name}" if path else name


def _shown(value: Any) -> Any:
    return value.text if isinstance(value, Text) else value


def _union(members: tuple[Any, ...], value: Any, base: Any, path: str) -> Any:
    given = _shown(value)
    kinds = [member for member in members if member is not NoneType]
    if len(kinds) < len(members) and (given is None or given == NONE):
        return None
    if not is_dataclass(kinds[0]):
        return convert(_plain(kinds, given), value, base, path)
    if len(kinds) == 1:
        return _dataclass(kinds[0], value, base, path)
    if isinstance(given, str):
        given = {"kind": given}
    if not isinstance(given, Mapping):
        raise ConfigError(path, given, "a table, or the name of a kind", _kinds_known(kinds))
    given = _with_target(given)
    return _dataclass(_member(kinds, given, base, path), given, base, path)


def _plain(kinds: list[Any], value: Any) -> Any:
    """The member for a list, where ``value`` is one and there is such a member; else the first."""
    lists = [member for member in kinds if get_origin(member) is tuple]
    return lists[0] if lists and isinstance(value, list | tuple) else kinds[0]


def _with_target(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """``kind = "module:Class"`` stands for the kind ``custom`` with that target."""
    kind = _shown(table.get("kind"))
    if not isinstance(kind, str) or ":" not in kind:
        return table
    return {**table, "kind": CUSTOM, "target": kind}


def _member(kinds: list[Any], table: Mapping[str, Any], base: Any, path: str) -> Any:
    """The member that ``kind`` names; without it, the one that the base belongs to, or one that
    is assumed, as of a union that was one class once."""
    kind = _shown(table.get("kind"))
    if kind is None and type(base) in kinds:
        return type(base)
    assumed = [member for member in kinds if getattr(member, "assumed", False)]
    if kind is None and assumed:
        return assumed[0]
    if kind is None:
        raise UserError(f"{join(path, 'kind')}: required and not given; {_kinds_known(kinds)}")
    by_name = {member.kind: member for member in kinds}
    if not isinstance(kind, str) or kind not in by_name:
        allowed = f"one of {', '.join(by_name)}"
        raise ConfigError(join(path, "kind"), kind, allowed, _suggestion(kind, by_name))
    return by_name[kind]


def _kinds_known(kinds: list[Any]) -> str:
    return f"kinds: {', '.join(member.kind for member in kinds)}"


def _suggestion(value: Any, known: Any) -> str:
    hint = nearest(value, known) if isinstance(value, str) else ""
    return hint if hint.startswith("did") else ""


def _literal(allowed: tuple[Any, ...], value: Any, path: str) -> Any:
    if not isinstance(value, str) or value not in allowed:
        choices = f"one of {', '.join(allowed)}"
        raise ConfigError(path, value, choices, _suggestion(value, allowed))
    return value


def _tuple(item: Any, value: Any, base: Any, path: str) -> tuple[Any, ...]:
    """A list; or a table that changes, by their names, some entries of the base's list."""
    if isinstance(value, Mapping) and base and _named(item):
        return _changed(item, value, {entry.name: entry for entry in base}, path)
    given = value
    if isinstance(value, Text):
        parsed = value.parsed()
        given = parsed if isinstance(parsed, list) else [value]
    if not isinstance(given, list | tuple):
        raise ConfigError(path, given, "a list", 'such as ["a", "b"]')
    return tuple(convert(item, entry, None, f"{path}[{i}]") for i, entry in enumerate(given))


def _mapping(value: Any, path: str) -> dict[str, Any]:
    """A table of scalars, whose names are for somebody else to know."""
    if not isinstance(value, Mapping):
        raise ConfigError(path, _shown(value), "a table")
    found = {}
    for name, entry in value.items():
        given = entry.parsed() if isinstance(entry, Text) else entry
        if not isinstance(given, bool | int | float | str):
            raise ConfigError(join(path, str(name)), given, "a number, a string, true or false")
        found[str(name)] = given
    return found


def _named(item: Any) -> bool:
    return is_dataclass(item) and "name" in (f.name for f in fields(item))


def _changed(
    item: Any, table: Mapping[str, Any], entries: Mapping[str, Any], path: str
) -> tuple[Any, ...]:
    for name in table:
        if name not in entries:
            raise UserError(f"{join(path, name)}: no such entry; {nearest(name, entries)}")
    return tuple(
        convert(item, table[name], entry, join(path, name)) if name in table else entry
        for name, entry in entries.items()
    )


def _dataclass(cls: Any, value: Any, base: Any, path: str) -> Any:
    kind = getattr(cls, "kind", None)
    if not isinstance(value, Mapping):
        options = ", ".join(f.name for f in fields(cls))
        raise ConfigError(path, _shown(value), "a table", f"options: {options}")
    table = {name: entry for name, entry in value.items() if kind is None or name != "kind"}
    if _shown(value.get("kind", kind)) != kind and kind is not None:
        raise ConfigError(join(path, "kind"), _shown(value["kind"]), f"{kind!r} here")
    _refuse_unknown(cls, table, path)
    same = base if type(base) is cls else None
    values = {f.name: _field(cls, f, table, same, path) for f in fields(cls)}
    missing = [join(path, name) for name, entry in values.items() if entry is MISSING]
    if missing:
        raise UserError(f"{', '.join(missing)}: required and not given")
    try:
        return cls(**values)
    except ConfigError as error:
        raise error.at(path) from None


def _refuse_unknown(cls: Any, table: Mapping[str, Any], path: str) -> None:
    names = [f.name for f in fields(cls)]
    for name in table:
        if name not in names:
            kind = getattr(cls, "kind", None)
            of = f" of kind {kind!r}" if kind else ""
            known = nearest(str(name), names) if names else "it has none"
            raise UserError(f"{join(path, str(name))}: no such option{of}; {known}")


def _field(cls: Any, field: "Field[Any]", table: Mapping[str, Any], base: Any, path: str) -> Any:
    """The value of one field: given, or the base's, or the default; MISSING without any."""
    value = _default(field) if base is None else getattr(base, field.name)
    if field.name not in table:
        return value
    inner = None if value is MISSING else value
    return convert(_hints(cls)[field.name], table[field.name], inner, join(path, field.name))


def _default(field: "Field[Any]") -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


@cache
def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls)


def _scalar(hint: Any, value: Any, path: str) -> Any:
    accepts, allowed = _SCALARS[hint]
    if isinstance(value, Text):
        value = value.text if hint is str else value.parsed()
    if not accepts(value):
        raise ConfigError(path, value, allowed)
    return hint(value)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return _whole(value) and abs(value) < 1e300


_SCALARS: dict[Any, tuple[Callable[[Any], bool], str]] = {
    bool: (lambda value: isinstance(value, bool), "true or false"),
    int: (_whole, "a whole number"),
    float: (_finite, "a finite number"),
    str: (lambda value: isinstance(value, str), "a string"),
}
