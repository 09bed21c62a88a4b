"""``turnout bench``: what it refuses, what it names, and one small run from start to end."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from turnout.bench import report, suite
from turnout.bench.equal import BOUNDS
from turnout.bench.machine import Probe
from turnout.bench.options import SUITES
from turnout.bench.peers import installed

Turnout = Callable[..., Any]
TINY = ("--experts", "2", "--tokens", "8", "--width", "16", "--repeats", "2")


@pytest.fixture(autouse=True)
def small_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "Probe", lambda: Probe(square=16, size=1 << 10))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("lair",), "no suite 'lair'; did you mean 'layer'?"),
        (("layer", "--experts", "many"), "--experts many: must be a whole number above 0"),
        (("layer", "--experts", "0"), "--experts 0: must be above 0"),
        (("layer", "--experts", "8", "-3"), "--experts -3: must be above 0"),
        (("layer", "--room", "nan"), "--room nan: must be above 0"),
        (("layer", "--dtypes", "float8"), "--dtypes float8: must be one of float32, bfloat16"),
        (("generation", "--modes", "encode"), "--modes encode: must be one of prefill, decode"),
        (("step", "--k", "2"), "--k: must not be given to this suite; it takes --experts --rows"),
        (("scaling", "--no-peers"), "--no-peers: must not be given to this suite"),
        (("layer", "--json", "nowhere/x.json"), "--json nowhere/x.json: must be a file in a fold"),
        (("layer", "--chart", "x.pdf"), "--chart x.pdf: must end in .png"),
        (("layer", "--expert", "8"), "no option --expert; did you mean --experts?"),
        (("experts", "--experts", "3"), "--experts 3: must be at least 8, those of a token"),
    ],
)
def test_what_is_wrong_is_one_line(turnout: Turnout, arguments: tuple[str, ...], says: str) -> None:
    result = turnout("bench", *arguments)
    assert result.code == 2
    assert result.err.splitlines()[-1].startswith(f"error: {says}")
    assert result.out == ""


def test_the_list_names_every_suite(turnout: Turnout) -> None:
    result = turnout("bench", "--list")
    assert result.code == 0
    for name, offer in SUITES.items():
        assert f"  {name:<11} {offer.summary}" in result.out.splitlines()


def test_a_suite_from_start_to_end(turnout: Turnout) -> None:
    files = ("--json", "layer.json", "--chart", "layer.png")
    result = turnout("bench", "layer", *TINY, "--k", "2", *files)
    assert result.code == 0
    assert "| bfloat16 | forward+backward | 2 | 2 | 8 |" in result.out
    assert "`turnout bench layer --experts 2 --tokens 8" in result.out
    assert "layer: dtype float32" in result.err
    found = report.from_json(Path("layer.json").read_text())
    assert [row.dtype for row in found.rows] == ["float32", "bfloat16"]
    assert json.loads(Path("layer.json").read_text())["options"]["experts"] == [2]
    assert Path("layer.png").read_bytes()[:4] == b"\x89PNG"


def test_the_tour_ends_with_a_next_step(turnout: Turnout) -> None:
    result = turnout("bench", *TINY, "--vocabulary", "40", "--new", "2", "--dtypes", "float32")
    assert result.code == 0
    assert result.out.splitlines()[-2].startswith("Next: `turnout bench layer`")
    assert "| decode |" in result.out


def test_what_is_not_installed_is_named_once(
    turnout: Turnout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installed, "find_spec", lambda name: None)
    result = turnout("bench", "layer", *TINY, "--dtypes", "float32")
    assert result.code == 0
    assert result.err.splitlines()[0] == (
        "not installed, left out: transformers, st-moe-pytorch, mixture-of-experts; "
        "pip install 'turnout[bench]'"
    )
    assert "- transformers: not installed" in result.out


def test_an_unequal_pair_ends_the_run(turnout: Turnout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turnout.bench.layer.BOUNDS", dict.fromkeys(BOUNDS, 0.0))
    result = turnout("bench", "layer", *TINY, "--k", "2", "--dtypes", "bfloat16")
    assert result.code == 2
    assert "nothing was timed" in result.err
