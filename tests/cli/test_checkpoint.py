"""``turnout checkpoint`` on a run, on its copy over several files, and on damaged ones."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.cli.test_light import PROBE

from turnout.checkpoint import folders
from turnout.checkpoint.read import load

Turnout = Callable[..., Any]
Tiny = dict[str, tuple[str, ...]]


@pytest.fixture
def run(turnout: Turnout, tiny: Tiny, tmp_path: Path) -> Path:
    """A run with checkpoints of steps 2 and 3."""
    assert turnout("train", *tiny["causal"], "--out", "run").code == 0
    return tmp_path / "run"


def _flip(path: Path, from_end: int) -> None:
    data = bytearray(path.read_bytes())
    data[-from_end] ^= 16
    path.write_bytes(bytes(data))


def test_from_one_file_to_four_and_on_with_training(turnout: Turnout, run: Path) -> None:
    shown = turnout("checkpoint", "inspect", "run")
    assert shown.code == 0, shown.err
    assert "run/checkpoints/step-00000003\n  step       3, after 1,536 tokens\n" in shown.out
    assert "  files      1 shard, " in shown.out
    assert "moe.experts.w_in          float32  [4, 32, 64]            32.8 kB\n" in shown.out
    assert "optimizer.embedding" not in shown.out
    assert "optimizer.embedding" in turnout("checkpoint", "inspect", "run", "--all").out

    written = turnout("checkpoint", "reshard", "run", "four", "--shards", "4")
    assert written.code == 0, written.err
    assert "four/checkpoints/step-00000003: 4 files, " in written.out
    assert "  files      4 shards, " in turnout("checkpoint", "inspect", "four").out
    verified = turnout("checkpoint", "verify", "four")
    assert verified.code == 0 and verified.out.startswith(
        "whole: four/checkpoints/step-00000003, 4"
    )
    one, four = load(folders.latest(run)), load(folders.latest(run.parent / "four"))
    assert one.meta == four.meta
    assert all(torch.equal(tensor, four.tensors[name]) for name, tensor in one.tensors.items())

    results = [turnout("eval", name).out for name in ("run", "four")]
    assert results[0] == results[1].replace("four", "run")
    assert turnout("train", "--resume", "four", "--train.steps", "4").code == 0


def test_json_is_what_the_index_says(turnout: Turnout, run: Path) -> None:
    found = json.loads(turnout("checkpoint", "inspect", "run", "--json").out)
    tensors = load(folders.latest(run)).tensors
    assert found["step"] == 3 and found["tokens"] == 1536
    model = sum(t.numel() for name, t in tensors.items() if name.startswith("model."))
    assert found["parameters"] == model
    assert {name: entry["bytes"] for name, entry in found["tensors"].items()} == {
        name: tensor.nbytes for name, tensor in tensors.items()
    }


def test_a_flipped_byte_is_named_with_file_and_tensor(turnout: Turnout, run: Path) -> None:
    assert turnout("checkpoint", "reshard", "run", "four", "--shards", "4").code == 0
    folder = folders.latest(run.parent / "four")
    _flip(folder / "shard-00001-of-00004.safetensors", 1)
    _flip(folder / "shard-00003-of-00004.safetensors", 1)
    verified = turnout("checkpoint", "verify", "four")
    assert verified.code == 1
    lines = verified.out.splitlines()
    assert len(lines) == 2 and all(line.startswith("damaged: four/checkpoints/") for line in lines)
    assert "shard-00001" in lines[0] and ", in model." in lines[0]
    assert "shard-00003" in lines[1] and ", in optimizer." in lines[1]
    for command in (("eval", "four"), ("checkpoint", "reshard", "four", "new")):
        refused = turnout(*command)
        assert refused.code == 2 and refused.err.count("\n") == 1
        assert "shard-00001-of-00004.safetensors does not have its SHA-256" in refused.err


def test_verify_reads_every_checkpoint_of_a_run(turnout: Turnout, run: Path) -> None:
    verified = turnout("checkpoint", "verify", "run")
    assert verified.code == 0 and verified.out.count("whole: ") == 2
    _flip(folders.latest(run) / "shard-00001-of-00001.safetensors", 1)
    verified = turnout("checkpoint", "verify", "run")
    assert verified.code == 1
    assert "next: remove what is newer than run/checkpoints/step-00000002" in verified.out
    (folders.latest(run) / "index.json").write_text("{")
    verified = turnout("checkpoint", "verify", "run/checkpoints/step-00000003")
    assert verified.code == 1 and "is not an index this version reads" in verified.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("inspekt", "run"), "no part 'inspekt'; did you mean 'inspect'?"),
        (("inspect", "nowhere"), "nowhere: no such run folder"),
        (("verify", "nowhere"), "nowhere: no such run folder"),
        (("reshard", "nowhere", "new"), "nowhere: no such run folder"),
        (("reshard", "nowhere", "new", "--shards", "0"), "--shards = 0: must be at least 1"),
        (("reshard", "nowhere"), "the following arguments are required: TARGET"),
    ],
)
def test_mistakes_are_one_line(turnout: Turnout, arguments: tuple[str, ...], message: str) -> None:
    result = turnout("checkpoint", *arguments)
    assert result.code == 2 and message in result.err and result.err.count("\n") == 1


def test_inspect_imports_no_torch(run: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, "checkpoint", "inspect", str(run)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "heavy: []" in done.stderr and "step       3" in done.stdout
