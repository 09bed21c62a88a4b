"""``turnout checkpoint``: what is in a checkpoint, whether it is whole, and over other shards."""

from collections.abc import Sequence
from importlib import import_module

from turnout.config.errors import UserError, nearest

PARTS = {
    "inspect": ("turnout.cli.checkpoint_inspect", "what is in it: step, tokens, shapes, sizes"),
    "verify": ("turnout.cli.checkpoint_verify", "whether every byte is as it was written"),
    "reshard": ("turnout.cli.checkpoint_reshard", "the same over another number of files"),
}


def run(arguments: Sequence[str]) -> int:
    """Do what the first word says.

    Raises:
        UserError: there is no such part.
    """
    name, *rest = arguments or ("--help",)
    if name in ("-h", "--help", "help"):
        lines = (f"  {part:<8} {summary}" for part, (_, summary) in PARTS.items())
        print("usage: turnout checkpoint PART PATH [OPTIONS]\n\n" + "\n".join(lines))
        print("\nPATH is a run's folder or one of its step folders, saved on any number of ranks.")
        print("`turnout checkpoint PART --help` says more.")
        return 0
    if name not in PARTS:
        raise UserError(f"checkpoint: no part {name!r}; {nearest(name, PARTS)}")
    code: int = import_module(PARTS[name][0]).run(rest)
    return code
