"""Checkpoints over another number of files: the same bits, few of them in memory at a time."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.checkpoint.together import cut, numbered, partition
from turnout.checkpoint import durable, folders, stream
from turnout.checkpoint import reshard as module
from turnout.checkpoint.format import DTYPES, CheckpointError, Piece
from turnout.checkpoint.read import load, load_meta
from turnout.checkpoint.reader import Reader
from turnout.checkpoint.reshard import reshard, reshard_run, spread
from turnout.checkpoint.write import save, save_shards
from turnout.config.errors import UserError


@contextmanager
def silent(what: str, total: int) -> Iterator[Callable[[int], None]]:
    yield lambda count: None


def tensors() -> dict[str, Tensor]:
    return {
        "model.experts": torch.randn(12, 5, 3),
        "model.scale": torch.tensor(1.5),
        "model.half": torch.randn(7, 2).bfloat16(),
        "model.flags": torch.tensor([True, False, True]),
        "model.none": torch.zeros(0, 4),
        "model.counts": torch.arange(9),
    }


def assert_same(folder: Path, expected: dict[str, Tensor]) -> None:
    found = load(folder).tensors
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


@pytest.mark.parametrize("count", [1, 2, 3, 7, 500])
def test_any_number_of_shards_holds_the_same(tmp_path: Path, count: int) -> None:
    expected = tensors()
    save(tmp_path / "a", expected, {"step": 3})
    written = reshard(Reader(tmp_path / "a"), tmp_path / "b", count)
    assert_same(tmp_path / "b", expected)
    assert load_meta(tmp_path / "b") == {"step": 3}
    assert len(list((tmp_path / "b").glob("shard-*"))) == written <= count
    reshard(Reader(tmp_path / "b"), tmp_path / "c", 1)
    assert_same(tmp_path / "c", expected)


@settings(max_examples=40)
@given(data=st.data(), count=st.integers(1, 9), most=st.sampled_from([1, 8, 2**24]))
def test_any_partition_over_any_number(data: st.DataObject, count: int, most: int) -> None:
    shape = data.draw(st.lists(st.integers(1, 6), max_size=3).map(tuple))
    whole = numbered(shape, DTYPES[data.draw(st.sampled_from(sorted(DTYPES)))])
    shards = [[Piece("w", b.offset, cut(whole, b))] for b in partition(data, shape)]
    shards[0].append(Piece("v", (0,), torch.arange(5)))
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MOST", most)
        patch.setattr(stream, "MOST_READ", most)
        one, two = Path(folder) / "one", Path(folder) / "two"
        save_shards(one, shards, {"w": shape, "v": (5,)}, {})
        reshard(Reader(one), two, count)
        found = load(two).tensors
        assert torch.equal(found["w"].double(), whole.double()) and found["w"].dtype == whole.dtype
        assert torch.equal(found["v"], torch.arange(5))


def test_rows_are_dealt_in_equal_bytes_by_hand(tmp_path: Path) -> None:
    """8 rows of 4 bytes, then 8 of 2: 48 bytes over 3 shards are 16 each."""
    save(tmp_path, {"a": torch.zeros(8), "b": torch.zeros(8, dtype=torch.bfloat16)}, {})
    found = [
        [(cut.name, cut.block.offset, cut.block.shape) for cut in shard]
        for shard in spread(Reader(tmp_path), 3)
    ]
    assert found == [
        [("a", (0,), (4,))],
        [("a", (4,), (4,))],
        [("b", (0,), (8,))],
    ]


def test_only_a_little_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor of 4,096 bytes passes in parts of at most 64, and so do its rows of 256."""
    expected = {"w": torch.randn(16, 8, 8)}
    save(tmp_path / "a", expected, {})
    largest, original = [0], stream.TensorFile.read

    def read(file: stream.TensorFile, place: stream.TensorPlace) -> Tensor:
        largest[0] = max(largest[0], place.end - place.start)
        return original(file, place)

    def append(file: BinaryIO, data: bytes) -> None:
        head = bytes(data[8:9]) == b"{" or not file.name.endswith(".safetensors")
        largest[0] = max(largest[0], 0 if head else len(data))
        plain(file, data)

    plain = durable.append
    monkeypatch.setattr(stream.TensorFile, "read", read)
    monkeypatch.setattr(durable, "append", append)
    monkeypatch.setattr(module, "MOST", 64)
    monkeypatch.setattr(stream, "MOST_READ", 64)
    reshard(Reader(tmp_path / "a"), tmp_path / "b", 3)
    assert largest[0] == 64
    monkeypatch.undo()
    assert_same(tmp_path / "b", expected)


def _run(path: Path) -> dict[str, Tensor]:
    expected = tensors()
    folder = folders.step_folder(path, 7)
    save(folder, expected, {"step": 7}, {"README.md": "the card"})
    (path / "tokenizer").mkdir()
    (path / "tokenizer" / "vocabulary").write_text("a b c")
    (path / "metrics.jsonl").write_text("{}")
    return expected


def test_a_run_comes_along_whole(tmp_path: Path) -> None:
    expected = _run(tmp_path / "run")
    save(folders.step_folder(tmp_path / "run", 4), expected, {"step": 4})
    folder = reshard_run(tmp_path / "run", tmp_path / "new", 2, silent)
    assert folder == folders.latest(tmp_path / "new") == folders.step_folder(tmp_path / "new", 7)
    assert_same(folder, expected)
    assert (tmp_path / "new" / "tokenizer" / "vocabulary").read_text() == "a b c"
    assert (tmp_path / "new" / "metrics.jsonl").exists()
    assert (folder / "README.md").read_text() == "the card"
    assert [step for step, _ in folders.saved_steps(tmp_path / "new")] == [7]


def test_cut_off_it_leaves_no_run_and_can_be_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _run(tmp_path / "run")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", die)
        with pytest.raises(KeyboardInterrupt):
            reshard_run(tmp_path / "run", tmp_path / "new", 2, silent)
    assert not (tmp_path / "new").exists()
    assert_same(reshard_run(tmp_path / "run", tmp_path / "new", 2, silent), expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "run"]


def test_what_cannot_be_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run(tmp_path / "run")
    with pytest.raises(UserError, match="run is there already: give a new folder"):
        reshard_run(tmp_path / "run", tmp_path / "run", 2, silent)
    usage = module.shutil._ntuple_diskusage(10**12, 10**12, 100)
    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "disk_usage", lambda path: usage)
        with pytest.raises(UserError, match=r"new: needs 0.0 GB, the disk has 0.0"):
            reshard_run(tmp_path / "run", tmp_path / "deep" / "new", 2, silent)
    (shard,) = folders.latest(tmp_path / "run").glob("shard-*")
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="does not have its SHA-256"):
        reshard_run(tmp_path / "run", tmp_path / "new", 2, silent)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
