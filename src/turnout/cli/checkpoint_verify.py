"""``turnout checkpoint verify``: whether every byte of a checkpoint is as it was written."""

from collections.abc import Sequence
from pathlib import Path

from turnout.checkpoint import folders
from turnout.checkpoint.index import INDEX, CheckpointError
from turnout.cli.arguments import Parser


def run(arguments: Sequence[str]) -> int:
    """Read everything; 0 if all is whole, 1 with a line for each damage if not.

    Raises:
        UserError: there is no checkpoint.
    """
    options = _parser().parse(arguments)
    path = Path(options.path)
    found = [path] if (path / INDEX).is_file() else [each for _, each in folders.saved_steps(path)]
    damaged = [folder for folder in found or [folders.latest(path)] if not _verified(folder)]
    if not damaged:
        return 0
    whole = [folder for folder in found if folder not in damaged]
    if whole and found[-1] in damaged:
        print(f"next: remove what is newer than {whole[-1]}, and a resumed run goes on from there")
    return 1


def _parser() -> Parser:
    parser = Parser(
        "turnout checkpoint verify",
        "Read every byte, compare with the hashes in the index, and name the file and the tensor\n"
        "that is not what was written. Exit code 1 if there is one.",
    )
    parser.add_argument(
        "path", metavar="PATH", help="a run's folder, for all its checkpoints, or a step folder"
    )
    return parser


def _verified(folder: Path) -> bool:
    from turnout.checkpoint.reader import Reader
    from turnout.cli.checkpoint_progress import progress

    try:
        reader = Reader(folder)
    except CheckpointError as error:
        print(f"damaged: {error}")
        return False
    total = sum(entry.size for entry in reader.index.shards.values())
    faults = []
    with progress(f"reading {folder}", total) as advance:
        for name in reader.index.shards:
            try:
                reader.check_file(name, advance)
            except CheckpointError as error:
                faults.append(str(error))
        for name in reader.index.tensors:
            try:
                reader.check_tensor(name)
            except CheckpointError as error:
                faults.append(str(error))
    for fault in faults:
        print(f"damaged: {fault}")
    if not faults:
        files, tensors = len(reader.index.shards), len(reader.index.tensors)
        print(f"whole: {folder}, {files} files, {tensors} tensors, {total:,} bytes")
    return not faults
