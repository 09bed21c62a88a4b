"""``turnout checkpoint inspect``: what a checkpoint says of itself, without reading a tensor."""

import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from turnout.checkpoint import folders
from turnout.checkpoint.index import Index, TensorEntry, load_index
from turnout.cli.arguments import Parser
from turnout.config import io
from turnout.config.errors import UserError
from turnout.config.train import RunConfig

SECTIONS = {
    "model": "weights, and what a model keeps beside them",
    "optimizer": "the optimiser's state",
    "average": "the moving average of the weights",
    "sums": "the sums of the last step's routing",
}


def run(arguments: Sequence[str]) -> int:
    """Print a summary and the model's tensors.

    Raises:
        UserError: there is no checkpoint.
    """
    options = _parser().parse(arguments)
    folder = folders.latest(options.path)
    index = load_index(folder)
    if options.json:
        print(json.dumps(_as_json(folder, index), indent=1))
        return 0
    for line in (*_summary(folder, index), *_tensors(index, bool(options.all))):
        print(line)
    return 0


def _parser() -> Parser:
    parser = Parser(
        "turnout checkpoint inspect",
        "What a checkpoint holds. Only its index is read, so this answers at once; whether the\n"
        "files are as they were written, `turnout checkpoint verify` tells.",
    )
    parser.add_argument("path", metavar="PATH", help="a run's folder, or one of its step folders")
    parser.add_argument(
        "--all", action="store_true", help="list every tensor, not the model's alone"
    )
    parser.add_argument("--json", action="store_true", help="everything, for other programs")
    return parser


def _summary(folder: Path, index: Index) -> Iterator[str]:
    yield str(folder)
    meta = index.meta
    if "step" in meta and "tokens" in meta:
        yield f"  {'step':<10} {meta['step']:,}, after {meta['tokens']:,} tokens"
    parameters = _parameters(index)
    if parameters is not None:
        yield f"  {'parameters':<10} {parameters:,}"
    for section, entries in _sections(index).items():
        numbers = sum(math.prod(entry.shape) for entry in entries.values())
        yield (
            f"  {section:<10} {_counted(len(entries), 'tensor')}, {numbers:,} numbers, "
            f"{_size(sum(map(_bytes, entries.values())))}: {SECTIONS.get(section, 'unknown')}"
        )
    sizes = [entry.size for entry in index.shards.values()]
    pieces = sum(len(entry.pieces) for entry in index.tensors.values())
    each = f", {_size(min(sizes))} to {_size(max(sizes))} each" if len(sizes) > 1 else ""
    yield (
        f"  {'files':<10} {_counted(len(sizes), 'shard')}, {_size(sum(sizes))}{each}; "
        f"{_counted(pieces, 'piece')} of {_counted(len(index.tensors), 'tensor')}"
    )


def _tensors(index: Index, everything: bool) -> Iterator[str]:
    shown = [name for name in index.tensors if everything or name.startswith("model.")]
    width = max((len(name) for name in shown), default=0)
    if shown:
        yield ""
    for name in shown:
        entry = index.tensors[name]
        cut = f"  {_counted(len(entry.pieces), 'piece')}" if len(entry.pieces) > 1 else ""
        shape = str(list(entry.shape))
        yield f"  {name:<{width}}  {entry.dtype:<8} {shape:<20} {_size(_bytes(entry)):>9}{cut}"
    hidden = len(index.tensors) - len(shown)
    if hidden:
        yield f"\n  and {_counted(hidden, 'tensor')} beside the model's: --all lists them"


def _as_json(folder: Path, index: Index) -> dict[str, Any]:
    return {
        "folder": str(folder),
        "step": index.meta.get("step"),
        "tokens": index.meta.get("tokens"),
        "parameters": _parameters(index),
        "shards": {name: entry.size for name, entry in index.shards.items()},
        "tensors": {
            name: {
                "shape": list(entry.shape),
                "dtype": entry.dtype,
                "bytes": _bytes(entry),
                "pieces": len(entry.pieces),
            }
            for name, entry in index.tensors.items()
        },
        "meta": dict(index.meta),
    }


def _sections(index: Index) -> dict[str, dict[str, TensorEntry]]:
    found: dict[str, dict[str, TensorEntry]] = {}
    for name, entry in index.tensors.items():
        found.setdefault(name.split(".")[0], {})[name] = entry
    return found


def _parameters(index: Index) -> int | None:
    """Those of the configuration; None where it is not one that this version reads."""
    try:
        return int(io.from_dict(RunConfig, index.meta["config"]).model.num_params())
    except (UserError, KeyError, TypeError, AttributeError):
        return None


def _bytes(entry: TensorEntry) -> int:
    bits = re.search(r"\d+", entry.dtype)  # bool has none, float8_e4m3fn begins with them
    return math.prod(entry.shape) * (int(bits.group()) // 8 if bits else 1)


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _size(count: int) -> str:
    for unit, power in (("TB", 12), ("GB", 9), ("MB", 6), ("kB", 3)):
        if count >= 10**power:
            return f"{count / 10**power:.1f} {unit}"
    return f"{count} B"
