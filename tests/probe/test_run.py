"""From a run folder to its picture, through the library and the command line."""

import json
import sys
from pathlib import Path

import pytest

from turnout.checkpoint import folders
from turnout.cli.main import main
from turnout.config.errors import UserError
from turnout.probe.reading import Reading
from turnout.probe.run import EXPERTS, PICTURE, draw

Runs = dict[str, Path]


@pytest.mark.parametrize("form", ["causal", "span"])
def test_a_sparse_run(runs: Runs, form: str):
    run = runs[form]
    assert draw(run, {"order 0": 4.0}) == (run / PICTURE, run / EXPERTS)
    assert (run / PICTURE).read_bytes().startswith(b"\x89PNG")
    assert (run / PICTURE).stat().st_size > 50_000
    content = json.loads((run / EXPERTS).read_text())
    assert content["preset"] == "switch_tiny"
    assert content["step"] == 3
    stacks = {layer["stack"] for layer in content["layers"]}
    assert stacks == ({"decoder"} if form == "causal" else {"encoder", "decoder"})
    for layer in content["layers"]:
        assert len(layer["experts"]) == 4
        assert sum(expert["load"] for expert in layer["experts"]) == pytest.approx(1)


def test_a_dense_run_has_no_experts(runs: Runs):
    assert draw(runs["dense"], {}) == (runs["dense"] / PICTURE,)
    assert not (runs["dense"] / EXPERTS).exists()


def test_baselines_are_measured_when_not_given(runs: Runs, monkeypatch: pytest.MonkeyPatch):
    seen = {}

    def picture(_: object, baselines: dict[str, float], reading: Reading, *rest: str) -> str:
        seen.update(baselines=baselines, layers=reading.layers, rest=rest)
        return "chart"

    monkeypatch.setattr("turnout.probe.pictures.run_picture", picture)
    monkeypatch.setattr("turnout.probe.pictures.save", lambda chart, path: path)
    draw(runs["causal"])
    assert list(seen["baselines"]) == ["byte frequencies (order 0)", "order-5 n-gram"]
    title, subtitle, unit = seen["rest"]
    assert title.startswith("switch_tiny after 3 steps, ")
    assert title.endswith(" bits per byte on held-out text")
    assert subtitle.startswith("4 experts a sparse layer, ")
    assert "measured on 4 rows" in subtitle
    assert unit == "bits per byte"
    draw(runs["span"])
    assert list(seen["baselines"]) == ["token frequencies"]
    assert seen["rest"][2] == "bits per hidden byte"
    draw(runs["dense"])
    assert seen["rest"][0].startswith("switch_tiny (dense) after 3 steps")
    assert "expert" not in seen["rest"][1]


def test_the_command(runs: Runs, capsys: pytest.CaptureFixture[str]):
    step = folders.latest(runs["causal"])
    assert main(["probe", str(step)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        str(runs["causal"] / PICTURE),
        str(runs["causal"] / EXPERTS),
    ]


def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["probe", str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'nothing'}: no such run folder\n"


def test_without_the_library_nothing_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "altair", None)
    with pytest.raises(UserError, match="turnout\\[pictures\\]"):
        draw(tmp_path / "nothing")
