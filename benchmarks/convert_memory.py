"""Measures the memory of conversions, both ways and in both layouts.

    OMP_NUM_THREADS=1 python benchmarks/convert_memory.py > docs/results/convert.md

A random checkpoint in Mixtral's shape is written, a tensor at a time, in shards of 300 MB, and goes
to a run's folder and back. Each conversion is a process of its own. Its memory is the most that was
resident (the kernel's VmHWM, reset once everything is imported) less what was resident then; pages
of files that the kernel keeps are not in it. The folder holds up to four checkpoints at a time.
"""

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor

from turnout.checkpoint.stream import Planned
from turnout.config.attention import AttentionConfig
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.model import DecoderOnlyConfig
from turnout.config.moe import MoEConfig, Placement
from turnout.config.routers import TopKRouter
from turnout.convert.conversion import to_foreign, to_native, written_by
from turnout.convert.folder import open_foreign
from turnout.convert.foreign_files import write_foreign
from turnout.convert.mapping import map_foreign, parameters
from turnout.convert.native import open_native, split
from turnout.convert.rules import bind

SHARD = 300_000_000  # bytes
MB = 1e6
TITLE = "# The memory of conversions"
STEPS = (
    ("a tensor an expert, to a run", "native", "experts", "run"),
    ("a run, to a tensor an expert", "experts", "run", "back"),
    ("the same, in float32", "float32", "run", "wide"),
    ("a run, to fused experts", "fused", "run", "fused"),
    ("fused experts, to a run", "native", "fused", "again"),
)


def shape(width: int, layers: int, experts: int) -> DecoderOnlyConfig:
    """A model of Mixtral's kind; its experts are 3.5 times as wide as it, as Mixtral 8x7B's."""
    expert = FeedForwardConfig(width * 7 // 2, "swiglu")
    moe = MoEConfig(
        experts,
        TopKRouter(2),
        expert=expert,
        init_scale=None,
        placement=Placement(step=1),
        train_capacity_factor=None,
    )
    attention = AttentionConfig(width // 64, 64, max(width // 256, 1))
    return DecoderOnlyConfig(16_000, width, layers, attention, expert, moe)


def write(folder: Path, config: DecoderOnlyConfig) -> list[Planned]:
    """The random checkpoint, one tensor in memory at a time, and what is in it."""
    family, table = written_by(config)
    ours, planned = parameters(config), []
    for each in bind(family.rules(config, "experts", frozenset()), config.stacks()):
        theirs = each.operation.to_foreign([ours[name] for name in each.native])
        shapes = [tuple(tensor.shape) for tensor in theirs]
        planned += map(Planned, each.foreign, [torch.bfloat16] * len(shapes), shapes)
    write_foreign(folder, table, split(planned, SHARD), _drawn(planned))
    return planned


def _drawn(planned: list[Planned]) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    for each in planned:
        yield torch.empty(each.shape, dtype=each.dtype).normal_(std=0.02, generator=generator)


def convert(kind: str, source: Path, target: Path) -> dict[str, float]:
    """One conversion, in this process: its bytes above what the imports take, and seconds."""
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from what is resident
    before, started = resident("VmRSS"), time.perf_counter()
    if kind == "native":
        foreign = open_foreign(source)
        to_native(foreign, map_foreign(foreign), target, shard=SHARD)
    else:
        layout, dtype = ("experts", torch.float32) if kind == "float32" else (kind, None)
        to_foreign(open_native(source), target, layout=layout, dtype=dtype, shard=SHARD)  # type: ignore[arg-type]
    return {"peak": resident("VmHWM") - before, "seconds": time.perf_counter() - started}


def resident(name: str) -> int:
    """Bytes that the kernel says of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


def largest(folder: Path) -> int:
    """Bytes of the largest tensor of a folder of either kind."""
    if (folder / "config.json").exists():
        places = open_foreign(folder).places.values()
        return max(place.end - place.start for _, place in places)
    run = open_native(folder)
    return max(run.planned(name).size for name in run.names)


def main() -> None:
    """Writes, converts, prints the table."""
    parser = argparse.ArgumentParser(description=TITLE)
    for name, default in (("width", 2048), ("layers", 2), ("experts", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--step", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        kind, source, target = options.step
        print(json.dumps(convert(kind, Path(source), Path(target))))
        return
    with tempfile.TemporaryDirectory() as place:
        planned = write(
            Path(place, "experts"), shape(options.width, options.layers, options.experts)
        )
        report(Path(place), planned)


def report(place: Path, planned: list[Planned]) -> None:
    """All conversions, a line each."""
    total = sum(each.size for each in planned)
    shards = len(list((place / "experts").glob("*.safetensors")))
    print(f"{TITLE}\n")
    print(
        f"A random Mixtral of {sum(each.size for each in planned) // 2:,} parameters in bfloat16: "
        f"{total / MB:,.0f} MB in {shards} files. Peak\nis the most that a conversion had resident "
        "above what its imports take; the\nlargest tensor is the larger one of those read and "
        f"those written. {datetime.now(UTC):%d %B %Y}.\n"
    )
    print(
        f"Command: `OMP_NUM_THREADS={torch.get_num_threads()} python {' '.join(sys.argv)}`; torch"
    )
    print(f"{torch.__version__}, {processor()}, {platform.system()}.\n")
    print("| Conversion | largest tensor, MB | peak, MB | peak over the largest | seconds |")
    print("|---|---|---|---|---|")
    for title, kind, source, target in STEPS:
        command = [sys.executable, __file__, "--step", kind, place / source, place / target]
        found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        most = max(largest(place / source), largest(place / target))
        print(
            f"| {title} | {most / MB:,.0f} | {found['peak'] / MB:,.0f} "
            f"| {found['peak'] / most:.2f} | {found['seconds']:.0f} |",
            flush=True,
        )
        if target in ("back", "wide"):
            shutil.rmtree(place / target)


def processor() -> str:
    """Its name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


if __name__ == "__main__":
    main()
