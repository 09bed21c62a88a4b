"""Saved on any layout, loaded on any other: bit for bit, and the next loss is the same."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.harness import Pool
from tests.distributed.layouts import Saved, fails_on, keep, refusal, take
from turnout.checkpoint.read import load
from turnout.config.parallel import ParallelPlan

Ranks = Callable[[int], Pool]
P = ParallelPlan
# By data x expert x tensor: how many ranks, and their plan.
LAYOUTS: dict[str, tuple[int, ParallelPlan]] = {
    "1x1x1": (1, P()),
    "2x1x1": (2, P()),
    "1x2x1": (2, P(expert=2)),
    "1x1x2": (2, P(tensor=2)),
    "2x2x1": (4, P(expert=2)),
    "1x2x2": (4, P(expert=2, tensor=2)),
    "4x1x1, two shards": (4, P(fsdp=2)),
}
SMALL = [name for name, (size, _) in LAYOUTS.items() if size < 4]
DECODER, BOTH = "decoder, top-2 dropless", "encoder-decoder, switch at capacity 1"
KINDS = [
    Saved(DECODER, "adamw"),
    Saved(DECODER, "adafactor"),
    Saved(DECODER, "sgd"),
    Saved(BOTH, "adamw"),
]
NUMBER = itertools.count()


def on(ranks: Ranks, layout: str, job: Callable[..., Any], *args: Any) -> list[Any]:
    """What a job returns on each rank of a layout."""
    size, plan = LAYOUTS[layout]
    args = (*args, f"job{next(NUMBER)}")
    kind, rest = args[0], args[1:]
    return [job(kind, plan, *rest)] if size == 1 else ranks(size).run(job, kind, plan, *rest)


def assert_every_way(ranks: Ranks, kind: Saved, layouts: list[str], folder: Path) -> None:
    expected, losses = kind.wholes(), []
    for layout in layouts:
        on(ranks, layout, keep, kind, str(folder / layout))
        found = load(folder / layout).tensors
        assert found.keys() == expected.keys(), layout
        wrong = [name for name, t in expected.items() if not torch.equal(found[name], t)]
        assert wrong == [], layout
    for written, read in itertools.product(layouts, layouts):
        for wrong, loss in on(ranks, read, take, kind, str(folder / written)):
            assert wrong == [], (written, read)
            losses.append(loss)
    assert max(losses) - min(losses) <= 1e-5 * max(losses)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.model}, {kind.optimizer}")
def test_saved_and_loaded_on_one_and_two_ranks(ranks: Ranks, kind: Saved, tmp_path: Path) -> None:
    assert_every_way(ranks, kind, SMALL, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.model}, {kind.optimizer}")
def test_saved_and_loaded_on_every_layout(ranks: Ranks, kind: Saved, tmp_path: Path) -> None:
    assert_every_way(ranks, kind, list(LAYOUTS), tmp_path)


def test_a_flipped_byte_stops_all_ranks_before_a_weight_changes(
    ranks: Ranks, tmp_path: Path
) -> None:
    """Whichever rank has the file to hash."""
    kind = KINDS[0]
    for number in (1, 2):
        folder = tmp_path / str(number)
        on(ranks, "2x1x1", keep, kind, str(folder))
        path = folder / f"shard-0000{number}-of-00002.safetensors"
        data = bytearray(path.read_bytes())
        data[-5] ^= 1
        path.write_bytes(bytes(data))
        lines = on(ranks, "1x2x1", refusal, kind, str(folder))
        assert lines[0] == lines[1]
        assert lines[0].startswith(f"rank {number - 1}: {path} does not have its SHA-256")


def test_a_disk_full_on_one_rank_is_said_by_all(ranks: Ranks, tmp_path: Path) -> None:
    """Each rank writes a file, and the second one's disk is full."""
    size, plan = LAYOUTS["1x2x1"]
    lines = ranks(size).run(fails_on, 1, keep, KINDS[0], plan, str(tmp_path / "c"), "full")
    assert lines[0] == lines[1]
    assert lines[0].startswith("rank 1: No space left on device: ")
    assert not (tmp_path / "c" / "index.json").exists()


def test_another_model_is_refused_alike_on_all_ranks(ranks: Ranks, tmp_path: Path) -> None:
    on(ranks, "1x1x2", keep, KINDS[0], str(tmp_path / "c"))
    lines = on(ranks, "2x1x1", refusal, KINDS[3], str(tmp_path / "c"))
    assert lines[0] == lines[1] and "belongs to another model" in lines[0]
    lines = on(ranks, "2x1x1", refusal, Saved(DECODER, "adafactor"), str(tmp_path / "c"))
    assert lines[0] == lines[1] and "optimizer = 'adafactor': must be 'adamw'" in lines[0]
