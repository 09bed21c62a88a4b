"""``turnout plan``: what it prints, in words, as JSON and as a picture; one line for mistakes."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Turnout = Callable[..., Any]
SMALL = ("plan", "switch_tiny", "--devices", "4", "--device", "cpu")


def test_tables_and_the_command_that_starts_the_best(turnout: Turnout) -> None:
    result = turnout(*SMALL, "--tokens", "1M", "--price.hour", "2", "--parallel.expert", "4")
    assert result.code == 0
    for text in ("parameters", "active a token", "layouts", "optimiser", "all-to-all", "kWh"):
        assert text in result.out
    assert "in the prices' money" in result.out
    # two sockets a node: two nodes
    assert "torchrun --nnodes 2 --rdzv-backend c10d" in result.out
    assert "-m turnout train switch_tiny --parallel.fsdp" in result.out
    assert "--parallel.expert 4" in result.out


def test_json_holds_what_the_tables_say(turnout: Turnout) -> None:
    result = turnout(*SMALL, "--tokens", "1e6", "--json", "--model.moe.num-experts", "8")
    plan = json.loads(result.out)
    assert plan["fits"] is True
    assert plan["devices"] == 4
    assert plan["model"]["parameters"] == sum(plan["model"]["parameters_by_component"].values())
    best, first = plan["best"], plan["layouts"][0]
    assert {name: best[name] for name in first} == first
    assert best["data"] * best["expert"] * best["tensor"] == 4
    for load in ("balanced", "expected", "worst"):
        assert best["memory"][load]["peak"] > best["memory"][load]["weights"]
    time = dict(best["time"])
    assert time.pop("step") == pytest.approx(sum(time.values()))
    assert all(c["total"] == c["count"] * c["size"] for c in best["collectives"])
    assert best["outlook"]["cost"] is None
    assert plan["device"]["source"]
    assert "--model.moe.num-experts 8" in plan["command"]


def test_the_command_is_taken_by_train(turnout: Turnout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last part is a command line of ``turnout train`` in each of the processes."""
    plan = json.loads(turnout(*SMALL, "--json", "--router", "top_k").out)
    words = plan["command"].split("turnout train ")[1].split()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert turnout("train", *words, "--dry-run").code == 0


def test_nothing_fits_and_what_would_help(turnout: Turnout) -> None:
    result = turnout("plan", "qwen3_30b_a3b", "--devices", "2", "--top", "1")
    assert result.code == 1
    assert "no layout fits" in result.out
    assert "--devices 8" in result.out
    assert "torchrun" not in result.out


def test_the_picture_shows_every_rank(turnout: Turnout, tmp_path: Path) -> None:
    result = turnout(*SMALL, "--picture", "layout.svg", "--top", "1", "--parallel.tensor", "2")
    assert result.code == 0
    tree = ElementTree.parse(tmp_path / "layout.svg")
    texts = [node.text for node in tree.iter("{http://www.w3.org/2000/svg}text")]
    for way in ("data", "model", "model and data", "expert and data", "expert, model and data"):
        assert way in texts
    assert [texts.count(str(rank)) for rank in range(4)] == [2] * 4  # among weights and tokens


def test_a_device_of_ones_own(turnout: Turnout, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('like = "h100"\nmemory = 4e10\n')
    plan = json.loads(turnout(*SMALL[:4], "--device", "mine.toml", "--json").out)
    assert (plan["device"]["name"], plan["device"]["memory"]) == ("mine", 4e10)
    assert plan["device"]["bandwidth"] == 3.35e12


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--devices", "0"), "devices = 0: must be in 1 .. 1,048,576"),
        (("--devices", "many"), "--devices many: must be a whole number"),
        (("--devices", "-3"), "--devices -3: must be a whole number"),
        (("--device", "h10"), "no device 'h10'; did you mean 'h100'?"),
        (("--device", "none.toml"), "cannot read 'none.toml'"),
        (("--device", "bad.toml"), "device.memory = -1.0: must be above 0"),
        (("--device", "empty.toml"), "memory, bfloat16, float32"),
        (("--device", "like.toml"), "like = 'h1': no such device"),
        (("--tokens", "lots"), "--tokens lots: must be a number above 0"),
        (("--tokens=-1B",), "--tokens -1B: must be a number above 0"),
        (("--assume.compute", "2"), "assume.compute = 2.0: must be above 0, at most 1"),
        (("--assume.speed", "1"), "assume.speed"),
        (("--price.hour", "-1"), "price.hour = -1.0: must be at least 0"),
        (("--parallel.expert", "3"), "parallel.expert = 3: must be one of"),
        (("--devices", "7"), "train.batch_rows = "),
        (("--train.recompute", "maybe"), "train.recompute"),
        (("--top", "x"), "--top"),
        (("--picture", "no/such/folder/a.svg"), "No such file or directory"),
    ],
)
def test_a_mistake_is_one_line(
    turnout: Turnout, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    (tmp_path / "bad.toml").write_text('like = "h100"\nmemory = -1\n')
    (tmp_path / "empty.toml").write_text("")
    (tmp_path / "like.toml").write_text('like = "h1"\n')
    result = turnout("plan", "switch_tiny", "--devices", "4", *arguments)
    assert result.code == 2
    lines = [line for line in result.err.splitlines() if line]
    assert len(lines) == 1 and said in lines[0]


def test_thousands_of_devices_without_torch() -> None:
    code = (
        "import sys; from turnout.cli.main import main; "
        "code = main(['plan', 'switch_c', '--devices', '2048', '--json']); "
        "heavy = [n for n in ('torch', 'numpy', 'rich') if n in sys.modules]; "
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["best"]["expert"] > 1
