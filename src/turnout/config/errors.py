"""Errors a user can cause, each one clear line: field, value, what is allowed, the fix."""

import difflib
import math
from collections.abc import Iterable
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin


class UserError(ValueError):
    """The cause lies in what the user gave; the command line prints the message alone."""


class ConfigError(UserError):
    """A configuration field holds a value it may not hold."""

    def __init__(self, field: str, value: object, allowed: str, fix: str = "") -> None:
        text = f"{field} = {_short(value)}: must be {allowed}"
        super().__init__(f"{text}; {fix}" if fix else text)
        self.field = field
        self.value = value
        self.allowed = allowed
        self.fix = fix

    def at(self, path: str) -> "ConfigError":
        """The same error with its field placed under ``path``, the object that raised it.

        The classes name their fields as ``moe.placement.step``; read from ``model.moe.placement``
        that is ``model.moe.placement.step``. Where the two share nothing, as an expert's
        ``feed_forward.d_ff`` under ``model.moe.expert``, the last name moves.
        """
        parts, field = path.split(".") if path else [], self.field.split(".")
        for size in range(min(len(parts), len(field) - 1), 0, -1):
            if parts[-size:] == field[:size]:
                return ConfigError(
                    ".".join(parts + field[size:]), self.value, self.allowed, self.fix
                )
        placed = [*parts, field[-1]] if parts else field
        return ConfigError(".".join(placed), self.value, self.allowed, self.fix)


def require(condition: bool, field: str, value: object, allowed: str, fix: str = "") -> None:
    """Raise ``ConfigError`` unless ``condition`` holds."""
    if not condition:
        raise ConfigError(field, value, allowed, fix)


def positive(field: str, value: float) -> None:
    """Raise ``ConfigError`` unless ``value`` is above zero and finite."""
    require(0 < value < math.inf, field, value, "above 0")


def not_negative(field: str, value: float) -> None:
    """Raise ``ConfigError`` unless ``value`` is at least zero and finite."""
    require(0 <= value < math.inf, field, value, "at least 0")


def check_words(config: Any, path: str) -> None:
    """Raise ``ConfigError`` unless every field that takes one of some words has one of them.

    Args:
        config: a dataclass instance; called first in its ``__post_init__``.
        path: what its fields stand under.
    """
    for field in fields(config):
        words = get_args(field.type) if get_origin(field.type) is Literal else ()
        value = getattr(config, field.name)
        if words and value not in words:
            hint = nearest(value, words) if isinstance(value, str) else ""
            fix = hint if hint.startswith("did") else ""
            raise ConfigError(f"{path}.{field.name}", value, f"one of {', '.join(words)}", fix)


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that names the closest known name, or lists all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(names)}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
