"""Several ranks save one checkpoint; a thread each stands for them."""

import errno
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from torch import Tensor

from tests.checkpoint.together import fine, on_ranks
from turnout.checkpoint import durable, folders, saver, write
from turnout.checkpoint.format import INDEX, CheckpointError, Part
from turnout.checkpoint.ranks import OverStore, Ranks
from turnout.checkpoint.read import load, load_meta
from turnout.checkpoint.saver import Saver

W = torch.arange(24, dtype=torch.float32).view(6, 4)
B = torch.tensor([1.0, 2.0])
E = torch.zeros(0, 3)


def rows(tensor: Tensor, rank: int, size: int) -> Part:
    """As FSDP cuts: rows, the last ranks fewer or none."""
    step = -(-tensor.shape[0] // size)
    start = min(rank * step, tensor.shape[0])
    return Part(tuple(tensor.shape), (start, 0), tensor[start : start + step])


def held(ranks: Ranks, tensor: Tensor = W) -> dict[str, Part]:
    """Sharded rows, a copy on every rank, a count, and nothing at all."""
    return {
        "w": rows(tensor, ranks.rank, ranks.size),
        "b": Part.whole(B),
        "count": Part.whole(torch.tensor(7)),
        "empty": Part.whole(E),
    }


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_what_ranks_hold_becomes_one_checkpoint(
    tmp_path: Path, size: int, background: bool
) -> None:
    def work(ranks: Ranks) -> None:
        own = Saver(ranks, background)
        own.save(tmp_path / "c", held(ranks), {"rank": ranks.rank}, {"README.md": "x"})
        own.wait()

    fine(on_ranks(size, work))
    found = load(tmp_path / "c")
    assert found.meta == {"rank": 0}
    assert torch.equal(found.tensors["w"], W) and torch.equal(found.tensors["b"], B)
    assert int(found.tensors["count"]) == 7 and found.tensors["empty"].shape == (0, 3)
    total = sum(tensor.nbytes for tensor in found.tensors.values())
    assert total == 4 * 24 + 4 * 2 + 8  # copies are written once
    names = sorted(path.name for path in (tmp_path / "c").iterdir())
    assert names == ["README.md", INDEX, *(write.shard_name(n, size) for n in range(1, size + 1))]


def test_copies_are_spread_over_the_ranks_that_hold_them() -> None:
    """The largest first, to the least burdened: 8 and 5, then 4 beside 5, then 3 beside 8."""
    sizes = {"a": 8, "b": 5, "c": 4, "d": 3}
    one = {
        name: saver.Held((size,), "uint8", saver.Block((0,), (size,)), size)
        for name, size in sizes.items()
    }
    first, second = saver.divide([one, one])
    assert first.names == ("a", "d") and second.names == ("b", "c")


def test_a_rank_with_nothing_of_its_own_writes_nothing(tmp_path: Path) -> None:
    def work(ranks: Ranks) -> None:
        Saver(ranks).save(tmp_path / "c", {"b": Part.whole(B)} if ranks.rank == 1 else {}, {})

    fine(on_ranks(3, work))
    assert [path.name for path in (tmp_path / "c").glob("shard*")] == [write.shard_name(1, 1)]
    assert torch.equal(load(tmp_path / "c").tensors["b"], B)


def test_a_second_save_says_again_what_is_held_only_if_it_changed(tmp_path: Path) -> None:
    said: list[str] = []
    original = OverStore.consult

    def listening(ranks: OverStore, work: Callable[[], str], judge: Any) -> str:
        message = work()
        said.append(message)
        return original(ranks, lambda: message, judge)

    def work(ranks: Ranks) -> None:
        own = Saver(ranks)
        for step in range(3):
            more = {"new": Part.whole(B + 1)} if step == 2 else {}
            own.save(tmp_path / str(step), {**held(ranks, W + step), **more}, {"step": step})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OverStore, "consult", listening)
        fine(on_ranks(2, work))
    assert said.count("same") == 2
    for step in range(3):
        assert torch.equal(load(tmp_path / str(step)).tensors["w"], W + step)
    assert torch.equal(load(tmp_path / "2").tensors["new"], B + 1)


def test_changes_after_the_call_do_not_leak_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread is held back until the weights are other ones."""
    gate, original = threading.Event(), saver.write_shard

    def late(*arguments: Any) -> Any:
        assert gate.wait(60)
        return original(*arguments)

    monkeypatch.setattr(saver, "write_shard", late)
    own, tensor = Saver(background=True), W.clone()
    own.save(tmp_path / "c", {"w": Part.whole(tensor)}, {})
    assert own.busy and not (tmp_path / "c" / INDEX).exists()
    tensor.zero_()
    own.check()
    gate.set()
    own.wait()
    assert torch.equal(load(tmp_path / "c").tensors["w"], W)


def test_one_save_at_a_time_and_the_next_one_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, most, original = [0], [0], saver.write_shard

    def counted(*arguments: Any) -> Any:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        found = original(*arguments)
        inside[0] -= 1
        return found

    monkeypatch.setattr(saver, "write_shard", counted)
    own, done = Saver(background=True), []
    for step in range(4):
        own.save(
            tmp_path / str(step), {"w": Part.whole(W + step)}, {}, None, lambda: done.append(1)
        )
    own.wait()
    assert most == [1] and len(done) == 4
    assert all(torch.equal(load(tmp_path / str(n)).tensors["w"], W + n) for n in range(4))


def test_a_failure_behind_the_back_is_raised_once_at_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: BinaryIO, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", file.name)

    own = Saver(background=True)
    with monkeypatch.context() as patch:
        patch.setattr(durable, "append", full)
        own.save(tmp_path / "c", {"w": Part.whole(W)}, {})
        with pytest.raises(OSError, match="No space left"):
            own.wait()
    own.check()
    own.save(tmp_path / "c", {"w": Part.whole(W)}, {})
    own.wait()
    assert torch.equal(load(tmp_path / "c").tensors["w"], W)


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_disk_full_on_one_rank_stops_all_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: int, background: bool
) -> None:
    original = durable.append

    def full(file: BinaryIO, data: bytes) -> None:
        if str(file.name).endswith(f"2/{write.shard_name(bad + 1, 3)}"):
            raise OSError(errno.ENOSPC, "No space left on device", file.name)
        original(file, data)

    def work(ranks: Ranks) -> Saver:
        own = Saver(ranks, background)
        own.save(folders.step_folder(tmp_path, 1), held(ranks), {})
        own.save(folders.step_folder(tmp_path, 2), held(ranks, W + 1), {})
        own.wait()
        return own

    monkeypatch.setattr(durable, "append", full)
    results = on_ranks(3, work)
    assert {type(result) for result in results} == {CheckpointError}
    assert len({str(result) for result in results}) == 1
    assert str(results[0]).startswith(f"rank {bad}: No space left on device: ")
    assert folders.latest(tmp_path) == folders.step_folder(tmp_path, 1)
    assert torch.equal(load(folders.latest(tmp_path)).tensors["w"], W)


def test_a_rank_that_is_gone_is_named(tmp_path: Path) -> None:
    """It said what it holds, and never wrote it."""

    def work(ranks: Ranks) -> None:
        own = Saver(ranks)
        own.save(tmp_path / "1", held(ranks), {})
        if ranks.rank == 1:
            own._agree(tmp_path / "2", held(ranks, W + 1), {})
            return
        own.save(tmp_path / "2", held(ranks, W + 1), {})

    results = on_ranks(3, work, timeout=timedelta(seconds=1))
    assert "rank 1 did not answer within 0:00:01" in str(results[0])
    assert "rank 1 did not answer within 0:00:01" in str(results[2])
    assert (tmp_path / "1" / INDEX).exists() and not (tmp_path / "2" / INDEX).exists()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            lambda rank: {"w": Part((6, 4), (3 * rank, 0), W[3 * rank : 3 * rank + 2])},
            r"what the ranks hold of w has pieces that do not fill its shape \[6, 4\]",
        ),
        (
            lambda rank: {"w": Part((6, 4), (2 * rank, 0), W[2 * rank : 2 * rank + 4])},
            r"of w has pieces \[0:4, 0:4\] and \[2:6, 0:4\] that overlap",
        ),
        (
            lambda rank: {"w": Part.whole(W[: 3 + rank])},
            r"w is float32 \[3, 4\] on rank 0 and float32 \[4, 4\] on rank 1: must be one tensor",
        ),
        (
            lambda rank: {"w": Part.whole(W.double() if rank else W)},
            r"w is float32 \[6, 4\] on rank 0 and float64 \[6, 4\] on rank 1",
        ),
    ],
)
def test_ranks_that_do_not_hold_one_tensor_write_nothing(
    tmp_path: Path, parts: Callable[[int], dict[str, Part]], message: str
) -> None:
    results = on_ranks(2, lambda ranks: Saver(ranks).save(tmp_path / "c", parts(ranks.rank), {}))
    for result in results:
        with pytest.raises(CheckpointError, match=message):
            fine([result])
    assert not list((tmp_path / "c").glob("*"))


def test_after_a_refusal_the_next_save_is_whole(tmp_path: Path) -> None:
    def work(ranks: Ranks) -> str:
        own = Saver(ranks)
        own.save(tmp_path / "1", held(ranks), {})
        try:
            own.save(tmp_path / "1", held(ranks), {})
        except CheckpointError as error:
            refusal = str(error)
        own.save(tmp_path / "2", held(ranks, W + 2), {})
        return refusal

    assert all("already holds a checkpoint" in text for text in fine(on_ranks(2, work)))
    assert torch.equal(load(tmp_path / "2").tensors["w"], W + 2)


def test_ranks_without_a_shared_folder_are_told(tmp_path: Path) -> None:
    def work(ranks: Ranks) -> None:
        (tmp_path / str(ranks.rank)).mkdir()
        (tmp_path / str(ranks.rank) / "c").mkdir()
        Saver(ranks).save(tmp_path / str(ranks.rank) / "c", held(ranks), {})

    results = on_ranks(2, work)
    assert all("all processes must write to one shared folder" in str(r) for r in results)


def test_a_line_apart_is_not_disturbed(tmp_path: Path) -> None:
    """Ranks save in the background while they speak of something else, each at its own pace."""

    def work(ranks: Ranks) -> list[str]:
        own, heard = Saver(ranks.apart(), background=True), []
        for step in range(3):
            own.save(tmp_path / str(step), held(ranks, W + step), {})
            for number in range(4):
                time.sleep(0.002 * ranks.rank)
                said = f"{step}.{number}"
                heard.append(ranks.consult(lambda said=said: said, lambda texts: texts))
        own.wait()
        return heard

    expected = [f"{step}.{number}" for step in range(3) for number in range(4)]
    assert fine(on_ranks(3, work)) == [expected] * 3
    for step in range(3):
        assert torch.equal(load(tmp_path / str(step)).tensors["w"], W + step)


class Killed(BaseException):
    """What a kill is to a thread that lives on to be looked at."""


@pytest.mark.parametrize("moment", ["before the shard", "half a shard", "before the index"])
def test_killed_within_a_save_the_one_before_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def first(ranks: Ranks) -> None:
        Saver(ranks).save(folders.step_folder(tmp_path, 1), held(ranks), {"step": 1})

    fine(on_ranks(2, first))
    original = durable.append

    def half(file: BinaryIO, data: bytes) -> None:
        original(file, data[: len(data) // 2])
        raise Killed

    def kill(*_: Any) -> None:
        raise Killed

    def second(ranks: Ranks) -> None:
        try:
            Saver(ranks).save(folders.step_folder(tmp_path, 2), held(ranks, W + 1), {"step": 2})
        except Killed as error:
            raise RuntimeError from error

    with monkeypatch.context() as patch:
        if moment == "before the shard":
            patch.setattr(saver, "write_shard", kill)
        elif moment == "half a shard":
            patch.setattr(durable, "append", half)
        else:
            patch.setattr(saver, "commit", kill)
        on_ranks(2, second, timeout=timedelta(seconds=1))
    assert folders.latest(tmp_path) == folders.step_folder(tmp_path, 1)
    assert load_meta(folders.latest(tmp_path)) == {"step": 1}
    fine(on_ranks(2, second))
    assert folders.latest(tmp_path) == folders.step_folder(tmp_path, 2)
    assert torch.equal(load(folders.latest(tmp_path)).tensors["w"], W + 1)
