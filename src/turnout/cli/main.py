"""The ``turnout`` command: finds the subcommand, prints errors as one line. Imports no torch."""

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from turnout.config.errors import UserError, nearest


@dataclass(frozen=True)
class Command:
    """A subcommand: the module that has its ``run(arguments) -> exit code``, and one line."""

    module: str
    summary: str


COMMANDS = {
    "train": Command("turnout.cli.train", "train a model: a preset, a TOML file, or a saved run"),
    "finetune": Command("turnout.cli.finetune", "go on from a model, on a task or on other text"),
    "distill": Command("turnout.cli.distill", "train a student on what a teacher says"),
    "compare": Command(
        "turnout.cli.compare", "a sparse model against its dense twin: how much sooner"
    ),
    "simulate": Command(
        "turnout.cli.simulate", "a step on thousands of ranks, counted in one process"
    ),
    "eval": Command("turnout.cli.eval", "evaluate a run on its held-out text or on yours"),
    "generate": Command("turnout.cli.generate", "continue a prompt, or fill its blanks"),
    "probe": Command("turnout.cli.probe", "draw a run: its curve, and which expert reads what"),
    "report": Command("turnout.cli.report", "write a run's report, or compare several, as HTML"),
    "check": Command("turnout.cli.check", "whether a router keeps the contract, a model leaks"),
    "convert": Command("turnout.cli.convert", "from Hugging Face checkpoints, and back"),
    "surgery": Command(
        "turnout.cli.surgery", "upcycle, prune, merge, split experts, and the way back"
    ),
    "checkpoint": Command("turnout.cli.checkpoint", "inspect, verify and reshard what a run saved"),
    "plan": Command("turnout.cli.plan", "memory, time and layout of a run, before it is started"),
    "data": Command("turnout.cli.data", "fetch larger corpora, build shards, describe them"),
    "bench": Command(
        "turnout.cli.bench", "what sparse costs here, beside dense and other libraries"
    ),
    "doctor": Command("turnout.cli.doctor", "what this machine can do, and what Turnout will use"),
}

USAGE = "usage: turnout COMMAND [OPTIONS]\n\n{commands}\n\n`turnout COMMAND --help` says more."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns 0, 2 for an error of the user's, or 130 for Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # samples hold characters a terminal may lack
    try:
        return _dispatch(given)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except SystemExit as stop:  # argparse, behind --help
        return int(stop.code or 0)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone: nothing is left to say
        return 0
    except OSError as error:  # a full disk, a file where a folder should be, no permission
        where = f": {error.filename}" if error.filename else ""
        print(f"error: {error.strerror or error}{where}", file=sys.stderr)
        return 2


def _dispatch(given: list[str]) -> int:
    if not given or given[0] in ("-h", "--help", "help"):
        lines = (f"  {name:<10} {command.summary}" for name, command in COMMANDS.items())
        print(USAGE.format(commands="\n".join(lines)))
        return 0
    if given[0] == "--version":
        import turnout

        print(f"turnout {turnout.__version__}")
        return 0
    name, *rest = given
    if name not in COMMANDS:
        raise UserError(f"no command {name!r}; {nearest(name, COMMANDS)}")
    code: int = import_module(COMMANDS[name].module).run(rest)
    return code
