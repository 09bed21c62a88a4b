"""``turnout data build``: read, split and tokenise text into the cache, before a run needs it."""

from collections.abc import Sequence
from dataclasses import dataclass

from turnout.cli.arguments import Parser, split_dotted
from turnout.config import io
from turnout.config.train import DataConfig


def run(arguments: Sequence[str]) -> int:
    """Build what the arguments name, and say what it is."""
    data = asked("turnout data build", "Read, split and tokenise text into the cache.", arguments)
    from turnout.cli.build_progress import build_progress
    from turnout.data.info import corpus_lines, open_data

    for line in corpus_lines(open_data(data, build_progress())):
        print(line)
    return 0


def asked(prog: str, description: str, arguments: Sequence[str]) -> DataConfig:
    """The text that a command line names.

    Raises:
        UserError: an option or value that cannot be.
    """
    rest, dotted = split_dotted(arguments)
    parser = Parser(
        prog,
        description,
        "Options such as --data.tokenizer trained, --data.tokenizer.vocab-size 8192,\n"
        "--data.text-field content, --data.cache DIR and --data.validation-share 0.1 apply.",
    )
    parser.add_argument(
        "--data",
        nargs="+",
        metavar="PATH",
        help="files, folders, globs, .jsonl, .parquet, hf:NAME; default: Python's library",
    )
    options = parser.parse(rest, [f"--data.{name}" for name in io.to_dict(DataConfig())])
    return io.override(_Asked(DataConfig(paths=tuple(options.data or ()))), dotted).data


@dataclass(frozen=True)
class _Asked:
    """What dotted options name."""

    data: DataConfig
