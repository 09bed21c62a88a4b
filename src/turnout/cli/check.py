"""``turnout check router`` and ``turnout check leak``: the contract, measured."""

from collections.abc import Sequence
from importlib import import_module

from turnout.config.errors import UserError, nearest

PARTS = {
    "router": ("turnout.cli.check_router", "what a router keeps of the contract, with a verdict"),
    "leak": ("turnout.cli.check_leak", "whether a model's tokens read their future"),
}


def run(arguments: Sequence[str]) -> int:
    """Check what the first word says.

    Raises:
        UserError: there is no such check.
    """
    name, *rest = arguments or ("--help",)
    if name in ("-h", "--help"):
        print("usage: turnout check WHAT [options]\n")
        print("\n".join(f"  {part:<8} {text}" for part, (_, text) in PARTS.items()))
        return 0
    if name not in PARTS:
        raise UserError(f"no check {name!r}; {nearest(name, PARTS)}")
    code: int = import_module(PARTS[name][0]).run(rest)
    return code
