"""Errors a user can cause, each one clear line: which field, its value, what is allowed, the fix."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """The cause lies in what the user gave; the command line prints the message alone."""


class ConfigError(UserError):
    """A configuration field holds a value it may not hold."""

    def __init__(self, field: str, value: object, allowed: str, fix: str = "") -> None:
        text = f"{field} = {value!r}: must be {allowed}"
        super().__init__(f"{text}; {fix}" if fix else text)
        self.field = field


def require(condition: bool, field: str, value: object, allowed: str, fix: str = "") -> None:
    """Raise ``ConfigError`` unless ``condition`` holds."""
    if not condition:
        raise ConfigError(field, value, allowed, fix)


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that names the closest known name, or lists all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(names)}"
