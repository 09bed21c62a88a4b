"""``turnout data``: fetches, builds and describes the text that models are trained on."""

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec

from turnout.config.errors import UserError, nearest

_PARTS = {
    "fetch": ("turnout.cli.data_fetch", "larger corpora, and tasks, from package managers"),
    "build": ("turnout.cli.data_build", "text to tokens, once, in memory-mapped shards"),
    "info": ("turnout.cli.data_info", "what is in a corpus or in shards"),
}


def run(arguments: Sequence[str]) -> int:
    """Run the part that is named, or list the parts."""
    parts = {name: part for name, part in _PARTS.items() if find_spec(part[0]) is not None}
    name, *rest = arguments or ("--help",)
    if name in ("-h", "--help", "help"):
        lines = (f"  {name:<10} {summary}" for name, (_, summary) in parts.items())
        print("usage: turnout data PART [OPTIONS]\n\n" + "\n".join(lines))
        print("\n`turnout data PART --help` says more.")
        return 0
    if name not in parts:
        raise UserError(f"data: no part {name!r}; {nearest(name, parts)}")
    code: int = import_module(parts[name][0]).run(rest)
    return code
