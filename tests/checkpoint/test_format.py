"""Checkpoints: round trips, pieces over shards, and hostile folders."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from turnout.checkpoint import folders
from turnout.checkpoint.format import INDEX, CheckpointError, Piece, signed
from turnout.checkpoint.read import load, load_meta, match
from turnout.checkpoint.write import save, save_shards

SHARD = "shard-00001-of-00001.safetensors"


def _tensors() -> dict[str, Tensor]:
    return {
        "model.a": torch.arange(12, dtype=torch.float32).view(3, 4),
        "model.b": torch.tensor([1.5, -0.0, float("inf")], dtype=torch.bfloat16),
        "model.count": torch.tensor(2**40 + 1, dtype=torch.int64),
        "model.empty": torch.zeros(0, 5),
    }


def test_round_trip_is_bit_exact(tmp_path: Path) -> None:
    meta = {"step": 3, "tokens": 2**60, "rate": 0.1, "names": ["x", None]}
    save(tmp_path / "c", _tensors(), meta)
    found = load(tmp_path / "c")
    assert found.meta == meta == load_meta(tmp_path / "c")
    assert found.tensors.keys() == _tensors().keys()
    for name, tensor in _tensors().items():
        assert found.tensors[name].dtype == tensor.dtype
        assert torch.equal(found.tensors[name], tensor)


def test_views_and_shared_memory_are_saved_whole(tmp_path: Path) -> None:
    base = torch.arange(6.0).view(2, 3)
    save(tmp_path / "c", {"a": base, "b": base, "t": base.t()}, {})
    found = load(tmp_path / "c").tensors
    assert torch.equal(found["a"], base)
    assert torch.equal(found["b"], base)
    assert torch.equal(found["t"], base.t())


@settings(max_examples=15, deadline=None)
@given(rows=st.integers(2, 6), columns=st.integers(1, 4), cut=st.data())
def test_pieces_over_shards_load_as_one_tensor(rows: int, columns: int, cut: st.DataObject) -> None:
    whole = torch.randn(rows, columns)
    at = cut.draw(st.integers(1, rows - 1))
    shards = [[Piece("w", (0, 0), whole[:at])], [Piece("w", (at, 0), whole[at:])]]
    with tempfile.TemporaryDirectory() as folder:
        save_shards(Path(folder), shards, {"w": (rows, columns)}, {})
        assert torch.equal(load(Path(folder)).tensors["w"], whole)


def test_pieces_that_leave_a_hole_are_refused(tmp_path: Path) -> None:
    """Before the folder is a checkpoint, and where one holds them, when it is loaded."""
    whole = torch.ones(4, 2)
    hole = [[Piece("w", (0, 0), whole[:3])]]
    with pytest.raises(CheckpointError, match=r"w has pieces that do not fill its shape \[4, 2\]"):
        save_shards(tmp_path / "c", hole, {"w": (4, 2)}, {})
    overlap = [[Piece("w", (0, 0), whole[:2])], [Piece("w", (1, 0), whole[1:3])]]
    with pytest.raises(CheckpointError, match="overlap and leave a hole"):
        save_shards(tmp_path / "d", overlap, {"w": (4, 2)}, {})
    assert not (tmp_path / "c" / INDEX).exists() and not (tmp_path / "d" / INDEX).exists()
    save_shards(tmp_path / "e", [[Piece("w", (0, 0), whole[:3])]], {"w": (3, 2)}, {})
    _edit(lambda d: d["tensors"]["w"].update(shape=[4, 2]))(tmp_path / "e")
    with pytest.raises(CheckpointError, match=r"2 of 8 entries are in none"):
        load(tmp_path / "e")


def _truncate(folder: Path) -> None:
    data = (folder / SHARD).read_bytes()
    (folder / SHARD).write_bytes(data[:-7])


def _flip(folder: Path) -> None:
    data = bytearray((folder / SHARD).read_bytes())
    data[-3] ^= 4
    (folder / SHARD).write_bytes(bytes(data))


def _drop_shard(folder: Path) -> None:
    (folder / SHARD).unlink()


def _drop_index(folder: Path) -> None:
    (folder / INDEX).unlink()


def _break_index(folder: Path) -> None:
    (folder / INDEX).write_text('{"format": "turnout", "versi')


def _edit(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        data = json.loads((folder / INDEX).read_text())
        change(data)
        (folder / INDEX).write_text(json.dumps(signed(data)))

    return apply


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, r"has \d+ bytes, must have \d+: the checkpoint is damaged"),
        (_flip, "does not have its SHA-256"),
        (_drop_shard, "is missing"),
        (_drop_index, "is not a complete checkpoint: it has no index.json"),
        (_break_index, "is not an index this version reads"),
        (_edit(lambda d: d.update(version=99)), "version 99"),
        (_edit(lambda d: d["tensors"].pop("model.a")), "the index does not name: model.a"),
        (_edit(lambda d: d["tensors"]["model.a"].update(dtype="float64")), "as the index says"),
        (_edit(lambda d: d["tensors"]["model.a"].update(shape=[3, 5])), "do not fill its shape"),
        (_edit(lambda d: d.pop("tensors")), "is not an index this version reads"),
        (
            _edit(lambda d: d["shards"].update({f"../{SHARD}": d["shards"][SHARD]})),
            "names a shard outside the folder",
        ),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    save(tmp_path / "c", _tensors(), {})
    damage(tmp_path / "c")
    with pytest.raises(CheckpointError, match=message) as caught:
        load(tmp_path / "c")
    assert "\n" not in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(place=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_flipped_bit_of_the_index_is_noticed(place: int, bit: int) -> None:
    """Anywhere: what still loads is what was saved."""
    meta = {"step": 3, "rate": 0.25, "names": ["x", None]}
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder), _tensors(), meta)
        data = bytearray((Path(folder) / INDEX).read_bytes())
        data[place % len(data)] ^= 1 << bit
        (Path(folder) / INDEX).write_bytes(bytes(data))
        try:
            found = load(Path(folder))
        except CheckpointError as error:
            assert "\n" not in str(error)
            return
        assert found.meta == meta and found.tensors.keys() == _tensors().keys()


def test_a_save_that_dies_before_the_rename_leaves_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(folders.step_folder(tmp_path, 1), _tensors(), {"step": 1})

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", die)
        with pytest.raises(KeyboardInterrupt):
            save(folders.step_folder(tmp_path, 2), _tensors(), {"step": 2})
    assert (folders.step_folder(tmp_path, 2) / SHARD).exists()
    assert folders.latest(tmp_path) == folders.step_folder(tmp_path, 1)
    folders.clear(folders.step_folder(tmp_path, 2))
    folders.clear(folders.step_folder(tmp_path, 1))
    save(folders.step_folder(tmp_path, 2), _tensors(), {"step": 2})
    assert folders.latest(tmp_path) == folders.step_folder(tmp_path, 2)
    assert [step for step, _ in folders.saved_steps(tmp_path)] == [1, 2]


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 100_000_000):
        save(folders.step_folder(tmp_path, step), {"a": torch.ones(1)}, {})
    assert folders.prune(tmp_path, 2) == [folders.step_folder(tmp_path, 5)]
    assert [step for step, _ in folders.saved_steps(tmp_path)] == [10, 100_000_000]
    assert folders.prune(tmp_path, 2) == []


def test_no_run_and_no_checkpoint_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere: no such run folder"):
        folders.latest(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="holds no complete checkpoint"):
        folders.latest(tmp_path)


def test_a_checkpoint_is_never_overwritten(tmp_path: Path) -> None:
    save(tmp_path, {"a": torch.ones(1)}, {})
    with pytest.raises(CheckpointError, match="already holds a checkpoint"):
        save(tmp_path, {"a": torch.zeros(1)}, {})


def test_what_json_cannot_hold_is_refused_before_a_file_is_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        save(tmp_path / "c", {}, {"rate": torch.ones(1)})
    with pytest.raises(ValueError, match="not JSON compliant"):
        save(tmp_path / "c", {}, {"loss": float("nan")})
    assert not (tmp_path / "c").exists()


def test_another_models_checkpoint_shows_both_lists() -> None:
    found = {name: torch.ones(1) for name in ("w", "a1", "a2", "a3", "a4")}
    wanted = {"w": torch.ones(1), "b": torch.ones(2)}
    with pytest.raises(CheckpointError) as caught:
        match(found, wanted, "runs/x")
    assert str(caught.value) == (
        "runs/x belongs to another model: it has a1, a2, a3 and 1 more which this model has not, "
        "and lacks b"
    )
    with pytest.raises(CheckpointError, match=r"w is float32 \[1\], must be bfloat16 \[2, 2\]"):
        match({"w": torch.ones(1)}, {"w": torch.ones(2, 2, dtype=torch.bfloat16)}, "c")
    match(wanted, wanted, "c")
