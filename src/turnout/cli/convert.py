"""``turnout convert``: between a run's folder and a Hugging Face one."""

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from turnout.cli.arguments import Parser, command
from turnout.config.errors import UserError

if TYPE_CHECKING:
    from turnout.convert.conversion import Progress, Written

DTYPES = ("float32", "bfloat16", "float16")


def run(arguments: Sequence[str]) -> int:
    """Convert, and say what was written.

    Raises:
        UserError: the source cannot be read or written as the other kind, the target is there.
    """
    options = _parser().parse(arguments)
    from turnout.convert.folder import is_foreign
    from turnout.convert.hub import located

    if options.shard_size is not None and options.shard_size <= 0:
        raise UserError(f"--shard-size = {options.shard_size}: must be above 0, in GB")
    source, target = located(options.source), Path(options.target)
    if str(source) != options.source:
        print(f"{options.source}: in {source}")
    foreign = is_foreign(source)
    _refuse_stray(options, foreign)
    if options.lora == "adapter":
        return _adapter(source, target, options)
    written = _to_native(source, target, options) if foreign else _back(source, target, options)
    for line in _report(written):
        print(line)
    if options.verify:
        _verify(source if foreign else target, target if foreign else source)
    if foreign:
        print(f"next: {command()} generate {shlex.quote(str(target))} --prompt ...")
    else:
        print(f"next: {written.family.architectures[0]}.from_pretrained({str(target)!r})")
    return 0


def _parser() -> Parser:
    parser = Parser(
        "turnout convert",
        "Turn a Hugging Face checkpoint into a run's folder, or a run's last checkpoint into one. "
        "Every tensor is accounted for, or nothing is written.",
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a Hugging Face folder, or a run's; or org/name, a model on the Hugging Face hub",
    )
    parser.add_argument("target", metavar="TARGET", help="a new folder")
    parser.add_argument(
        "--layout",
        choices=("experts", "fused"),
        help="of Hugging Face experts: a tensor an expert (default), or all of a layer in one",
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, help="of a Hugging Face folder's weights; default: as they are"
    )
    parser.add_argument("--shard-size", type=float, metavar="GB", help="most of a file; default 5")
    parser.add_argument(
        "--imitate",
        choices=("transformers",),
        help="evaluate as transformers does where that is not what the paper says",
    )
    parser.add_argument(
        "--lora",
        choices=("merged", "base", "adapter"),
        help="of a run that trains adapters: the model with them (default), without them, or they "
        "alone, as peft keeps them",
    )
    parser.add_argument(
        "--verify", action="store_true", help="compare with transformers at the end"
    )
    return parser


def _refuse_stray(options: argparse.Namespace, foreign: bool) -> None:
    """Options that say nothing about this source."""
    if foreign and options.dtype is not None:
        raise UserError("--dtype: goes with a Hugging Face target; a run keeps the dtypes it gets")
    if foreign and options.layout is not None:
        raise UserError("--layout: goes with a Hugging Face target; a run has a layout of its own")
    if not foreign and options.imitate is not None:
        raise UserError("--imitate: goes with a Hugging Face source; a run says how it evaluates")
    if foreign and options.lora is not None:
        raise UserError("--lora: goes with a run that trains adapters; its checkpoint holds both")
    if options.lora in ("base", "adapter") and options.verify:
        raise UserError(f"--verify: goes with the whole model, not with --lora {options.lora}")


def _to_native(source: Path, target: Path, options: argparse.Namespace) -> "Written":
    from turnout.convert.conversion import to_native
    from turnout.convert.folder import open_foreign
    from turnout.convert.mapping import map_foreign

    foreign = open_foreign(source)
    mapped = map_foreign(foreign, options.imitate)
    return to_native(foreign, mapped, target, shard=_shard(options), progress=_progress())


def _back(source: Path, target: Path, options: argparse.Namespace) -> "Written":
    import torch

    from turnout.convert.conversion import to_foreign
    from turnout.convert.native import open_native

    native = open_native(source, merge=options.lora != "base")
    if options.lora is not None and native.run.lora is None:
        raise UserError(f"--lora {options.lora}: {source} trains no adapters; its lora is none")
    return to_foreign(
        native,
        target,
        layout=options.layout or "experts",
        dtype=None if options.dtype is None else getattr(torch, options.dtype),
        shard=_shard(options),
        progress=_progress(),
    )


def _shard(options: argparse.Namespace) -> int:
    """Most bytes of a file."""
    return int((5.0 if options.shard_size is None else options.shard_size) * 1e9)


def _adapter(source: Path, target: Path, options: argparse.Namespace) -> int:
    from turnout.integrations.peft import save_adapter

    if options.dtype is not None:
        raise UserError("--dtype: goes with a model; adapters are written as they are")
    for name in ("layout", "shard_size"):
        if getattr(options, name) is not None:
            raise UserError(
                f"--{name.replace('_', '-')}: goes with a model; adapters are one file, whose "
                "names are peft's"
            )
    saved = save_adapter(source, target)
    count = len(saved.names)
    print(f"{saved.folder}: adapters of {count} tensors of a {saved.family.model_type}")
    for note in saved.notes:
        print(f"note: {note}")
    print(f"next: PeftModel.from_pretrained(model, {str(target)!r})")
    return 0


def _report(written: "Written") -> list[str]:
    return [
        f"{written.folder}: {written.family.model_type}, {written.tensors:,} tensors, "
        f"{written.parameters:,} parameters, {written.size / 1e9:.2f} GB",
        *(f"note: {note}" for note in written.notes),
    ]


def _verify(foreign: Path, native: Path) -> None:
    from turnout.convert.api import load
    from turnout.convert.parity import parity

    for line in parity(foreign, load(native)).lines():
        print(line)


def _progress() -> "Progress":
    """A line that is written over on a terminal, and a line every ten seconds elsewhere."""
    terminal, last = sys.stderr.isatty(), [time.monotonic()]

    def show(done: int, total: int) -> None:
        now = time.monotonic()
        if terminal and (now - last[0] > 0.1 or done == total):
            print(f"\r{done}/{total} tensors", end="\n" if done == total else "", file=sys.stderr)
        elif not terminal and now - last[0] > 10:
            print(f"{done}/{total} tensors", file=sys.stderr)
        else:
            return
        last[0] = now

    return show
