"""Parsing that speaks in one line, and that leaves dotted options to the configuration."""

import argparse
import difflib
import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from turnout.config import io
from turnout.config.errors import UserError
from turnout.config.lora import LoraConfig
from turnout.config.train import RunConfig


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations, whose errors are UserErrors with the nearest name."""

    def __init__(self, prog: str, description: str, epilog: str = "") -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see `{self.prog} --help`")

    def parse(self, arguments: Sequence[str], known: Iterable[str] = ()) -> argparse.Namespace:
        """Parse all of ``arguments``; ``known`` are more option names to suggest."""
        found, unknown = self.parse_known_args(arguments)
        if unknown:
            bare = unknown[0].split("=")[0]
            if not bare.startswith("-"):
                raise UserError(f"unexpected argument {bare!r}; see `{self.prog} --help`")
            options = [name for action in self._actions for name in action.option_strings]
            raise UserError(f"no option {bare}; {self._hint(bare, options, known)}")
        return found

    def _hint(self, bare: str, options: Iterable[str], dotted: Iterable[str]) -> str:
        """The nearest option; a dotted one is also found by its last name."""
        names = {f"--{name.rpartition('.')[2]}": name for name in dotted}
        names |= {name: name for name in options}
        close = difflib.get_close_matches(bare, names, n=1, cutoff=0.7)
        return f"did you mean {names[close[0]]}?" if close else f"see `{self.prog} --help`"


def alone(
    parser: Parser,
    options: argparse.Namespace,
    name: str,
    beside: Iterable[str] = (),
    dotted: Iterable[str] = (),
) -> None:
    """Refuses options beside one that leaves them without effect.

    Args:
        name: of the option that was given, as ``report``.
        beside: those that go with it.
        dotted: names of dotted options that were given.

    Raises:
        UserError: names one.
    """
    kept = {name, *beside, "help", "trust"}
    given = [
        f"--{action.dest.replace('_', '-')}" if action.option_strings else action.dest
        for action in parser._actions
        if action.dest not in kept and getattr(options, action.dest, None) != action.default
    ]
    given += [f"--{each.replace('_', '-')}" for each in dotted]
    if given:
        raise UserError(f"--{name.replace('_', '-')}: takes no {given[0]}, which has no effect")


def command() -> str:
    """``turnout``, or the path it was called by where a shell would not find it by name, as a
    shell reads it."""
    called = Path(sys.argv[0])
    if called.name != "turnout" or shutil.which("turnout") is not None:
        return "turnout"
    return shlex.quote(os.path.relpath(called))


def split_dotted(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Take ``--a.b VALUE`` and ``--a.b=VALUE`` out of a command line; a bare one means true.

    Raises:
        UserError: an option is given twice.
    """
    rest: list[str] = []
    dotted: dict[str, str] = {}
    given = list(arguments)
    while given:
        word = given.pop(0)
        name, equals, value = word.partition("=")
        if not name.startswith("--") or "." not in name:
            rest.append(word)
            continue
        if not equals:
            value = given.pop(0) if given and not given[0].startswith("--") else "true"
        key = name.removeprefix("--").replace("-", "_")
        if key in dotted:
            raise UserError(f"option {name} is given twice")
        dotted[key] = value
    return rest, dotted


def file_target(option: str, text: str) -> Path:
    """A file to be written at the end of long work.

    Raises:
        UserError: its folder is not there, or it is a folder itself.
    """
    path = Path(text)
    if not path.absolute().parent.is_dir() or path.is_dir():
        raise UserError(f"{option} {text}: must be a file in a folder that exists")
    return path


def option_names(config: RunConfig) -> list[str]:
    """The dotted options of a configuration, as they are typed."""
    return [f"--{name.replace('_', '-')}" for name, _ in dotted_values(config)]


def dotted_values(config: RunConfig) -> list[tuple[str, Any]]:
    """Dotted names and values; those of a table that is none are its defaults."""
    table = io.to_dict(replace(config, lora=config.lora or LoraConfig()))
    return [pair for pair in io.flat(table) if "." in pair[0]]
