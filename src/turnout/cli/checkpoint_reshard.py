"""``turnout checkpoint reshard``: a checkpoint over another number of files."""

from collections.abc import Sequence
from pathlib import Path

from turnout.cli.arguments import Parser, command
from turnout.config.errors import UserError


def run(arguments: Sequence[str]) -> int:
    """Write a run's folder anew.

    Raises:
        UserError: the source is damaged, the target is there, or the disk has no room.
    """
    options = _parser().parse(arguments)
    if options.shards < 1:
        raise UserError(f"--shards = {options.shards}: must be at least 1")
    from turnout.checkpoint.index import load_index
    from turnout.checkpoint.reshard import reshard_run
    from turnout.cli.checkpoint_progress import progress

    target = Path(options.target)
    folder = reshard_run(Path(options.source), target, options.shards, progress)
    index = load_index(folder)
    total = sum(entry.size for entry in index.shards.values())
    print(f"{folder}: {len(index.shards)} files, {len(index.tensors)} tensors, {total:,} bytes")
    print(f"next: {command()} train --resume {target}, or anything else that takes a run's folder")
    return 0


def _parser() -> Parser:
    parser = Parser(
        "turnout checkpoint reshard",
        "Write a checkpoint over another number of files, bit for bit the same, with a few\n"
        "megabytes in memory. Loading needs none of this: any number of ranks reads any number of\n"
        "files. It is for other tools, file systems, and copies.",
    )
    parser.add_argument(
        "source", metavar="SOURCE", help="a run's folder, or one of its step folders"
    )
    parser.add_argument("target", metavar="TARGET", help="a new run folder")
    parser.add_argument(
        "--shards", type=int, default=1, metavar="N", help="files of equal size; default 1"
    )
    return parser
