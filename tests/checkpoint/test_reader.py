"""Any block of a tensor, whatever pieces hold it, and what is refused."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.checkpoint.together import box, cut, fine, numbered, on_ranks, partition
from turnout.checkpoint import stream
from turnout.checkpoint.blocks import Block
from turnout.checkpoint.format import DTYPES, INDEX, CheckpointError, Piece, signed
from turnout.checkpoint.reader import Reader
from turnout.checkpoint.write import save, save_shards

SHAPES = st.lists(st.integers(1, 6), min_size=0, max_size=4).map(tuple)


@settings(max_examples=80)
@given(
    data=st.data(),
    shape=SHAPES,
    dtype=st.sampled_from(sorted(DTYPES)),
    most=st.sampled_from([1, 16, 2**24]),
)
def test_any_partition_written_any_block_read(
    data: st.DataObject, shape: tuple[int, ...], dtype: str, most: int
) -> None:
    """Also when no more than a few bytes are read at once."""
    whole = numbered(shape, DTYPES[dtype])
    shards = [[Piece("w", block.offset, cut(whole, block))] for block in partition(data, shape)]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "MOST_READ", most)
        save_shards(Path(folder), shards, {"w": shape}, {})
        reader = Reader(Path(folder))
        reader.check()
        for block in (box(data, shape), Block.whole(shape)):
            found, expected = reader.block("w", block), cut(whole, block)
            assert found.dtype == whole.dtype and found.shape == expected.shape
            assert (
                torch.equal(found.view(torch.uint8), expected.contiguous().view(torch.uint8))
                if (shape)
                else torch.equal(found.float(), expected.float())
            )


def test_little_is_read_for_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One expert of 64: its bytes, not the tensor's."""
    experts = torch.arange(64 * 8 * 4, dtype=torch.float32).view(64, 8, 4)
    save(tmp_path / "c", {"experts": experts}, {})
    read: list[int] = []
    original = stream.TensorFile.read

    def counted(file: stream.TensorFile, place: stream.TensorPlace) -> torch.Tensor:
        read.append(place.end - place.start)
        return original(file, place)

    monkeypatch.setattr(stream.TensorFile, "read", counted)
    found = Reader(tmp_path / "c").block("experts", Block((17, 0, 0), (1, 8, 4)))
    assert torch.equal(found, experts[17:18])
    assert sum(read) == 8 * 4 * 4


def _four(folder: Path) -> torch.Tensor:
    whole = torch.arange(32, dtype=torch.float32).view(8, 4)
    pieces = [[Piece("w", (2 * i, 0), whole[2 * i : 2 * i + 2])] for i in range(4)]
    pieces[2].append(Piece("v", (0,), torch.ones(3, dtype=torch.bfloat16)))
    save_shards(folder, pieces, {"w": (8, 4), "v": (3,)}, {})
    return whole


def _flip(folder: Path, shard: int, from_end: int) -> None:
    path = folder / f"shard-{shard:05d}-of-00004.safetensors"
    data = bytearray(path.read_bytes())
    data[-from_end] ^= 1
    path.write_bytes(bytes(data))


def test_a_flipped_byte_is_found_by_whoever_has_the_file(tmp_path: Path) -> None:
    """Two ranks hash two files each, and both refuse; the line names file and tensor."""
    _four(tmp_path)
    _flip(tmp_path, 3, 1)  # the last bytes of the third file are those of v: w is wider
    message = r"shard-00003-of-00004.safetensors does not have its SHA-256.*, in v$"
    with pytest.raises(CheckpointError, match=message):
        Reader(tmp_path).check()
    Reader(tmp_path).check(1, 2)
    results = on_ranks(2, lambda ranks: Reader(tmp_path).check_together(ranks))
    assert [type(result) for result in results] == [CheckpointError] * 2
    assert len({str(result) for result in results}) == 1
    assert str(results[0]).startswith("rank 0: ") and "shard-00003" in str(results[0])


def test_the_piece_of_a_tensor_in_a_damaged_file_is_named(tmp_path: Path) -> None:
    _four(tmp_path)
    _flip(tmp_path, 4, 9)
    with pytest.raises(CheckpointError, match=r", in w\[6:8, 0:4\]$"):
        Reader(tmp_path).check()
    _flip(tmp_path, 4, 9)
    path = tmp_path / "shard-00001-of-00004.safetensors"
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"shape":[2,4]', b'"shape":[4,2]'))
    with pytest.raises(CheckpointError, match=r", in the file's header$"):
        Reader(tmp_path).check()
    path.write_bytes(data[:8] + b" " + data[9:])
    with pytest.raises(CheckpointError, match=r", in the file's header$"):
        Reader(tmp_path).check()


def test_every_file_is_hashed_by_one_of_the_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _four(tmp_path)
    hashed: list[str] = []
    monkeypatch.setattr(Reader, "_hashed", lambda self, path, name, progress: hashed.append(name))
    fine(on_ranks(3, lambda ranks: Reader(tmp_path).check_together(ranks)))
    assert sorted(hashed) == sorted(Reader(tmp_path).index.shards)


def test_ranks_that_see_different_folders_say_so(tmp_path: Path) -> None:
    for number in range(2):
        save(tmp_path / str(number), {"w": torch.full((2,), float(number))}, {})
    results = on_ranks(2, lambda ranks: Reader(tmp_path / str(ranks.rank)).check_together(ranks))
    assert all("rank 1 reads another index.json there than rank 0" in str(r) for r in results)


def _edited(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        data = json.loads((folder / INDEX).read_text())
        change(data)
        (folder / INDEX).write_text(json.dumps(signed(data)))

    return apply


def _w(data: dict) -> dict:
    return data["tensors"]["w"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "shard-00002-of-00004.safetensors").unlink(), "shard-00002.* is missing"),
        (_edited(lambda d: _w(d)["pieces"].pop(1)), r"w has pieces that do not fill .*8 of 32"),
        (_edited(lambda d: _w(d)["pieces"][1].update(offset=[3, 0])), "overlap and leave a hole"),
        (_edited(lambda d: _w(d)["pieces"].append(_w(d)["pieces"][0])), "that overlap$"),
        (
            _edited(lambda d: _w(d)["pieces"][3].update(offset=[7, 0])),
            r"outside its shape \[8, 4\]",
        ),
        (_edited(lambda d: _w(d)["pieces"][1].update(key="v")), "does not hold v as the index"),
        (_edited(lambda d: _w(d)["pieces"][1].update(shard="x")), "names no shard 'x'"),
        (_edited(lambda d: _w(d)["pieces"][1].update(shape=[1, 4])), "do not fill"),
        (_edited(lambda d: _w(d)["pieces"][1].update(offset=[-2, 0])), "are no counts"),
        (_edited(lambda d: _w(d)["pieces"][1].update(offset="20")), "are no counts"),
        (_edited(lambda d: _w(d).update(dtype="complex32")), "does not hold w|must be one of"),
        (_edited(lambda d: d["shards"].update({"../s": {"size": 1, "sha256": ""}})), "outside the"),
    ],
)
def test_a_damaged_checkpoint_is_refused_in_one_line(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    """By a check of the whole; and a block is never made of what does not fill it."""
    _four(tmp_path)
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=message) as caught:
        Reader(tmp_path).check()
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError):
        Reader(tmp_path).tensor("w")


def test_blocks_outside_and_unknown_tensors_are_refused(tmp_path: Path) -> None:
    _four(tmp_path)
    reader = Reader(tmp_path)
    with pytest.raises(CheckpointError, match=r"w is \[8, 4\], and has no block \[7:9, 0:4\]"):
        reader.block("w", Block((7, 0), (2, 4)))
    with pytest.raises(CheckpointError, match=r"has no block \[0:8\]"):
        reader.block("w", Block((0,), (8,)))
    with pytest.raises(CheckpointError, match="holds no tensor u"):
        reader.tensor("u")
