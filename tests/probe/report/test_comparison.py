"""Several runs on one page."""

import json
import math
from pathlib import Path

import pytest

from tests.probe.report.cases import blocks, charts, document, evaluation, run_folder, step
from turnout.cli.main import main
from turnout.config.arithmetic import forward_flops
from turnout.probe import report
from turnout.probe.report.comparison import caveats
from turnout.probe.report.facts import gather
from turnout.probe.report.figures import duration, short

Runs = dict[str, Path]


@pytest.fixture(scope="module")
def page(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report.compare([runs["causal"], runs["dense"]], tmp_path_factory.mktemp("c") / "c.html")


def test_figures_side_by_side(page: Path):
    table, models = blocks(page, "figures")
    assert [row[0] for row in table["rows"]] == ["causal", "dense"]
    assert table["header"][1] == "bits per byte, held out"
    parameters = [row[4] for row in table["rows"]]
    assert parameters[0] != parameters[1]
    assert ["dense" in row[1] for row in models["rows"]] == [False, True]
    assert document(page)["notices"] == []


def test_curves_over_each_other(page: Path):
    for chart in (charts(document(page))[side] for side in ("heldout", "training")):
        lines = chart["data"]["lines"]
        assert set(lines["run"]) == {0, 1}
        assert dict(zip(lines["run"], lines["run_name"], strict=True)) == {
            0: "causal",
            1: "dense",
        }


def test_axes_and_arithmetic(page: Path, runs: Runs):
    axes = {axis["name"]: axis for axis in document(page)["axes"]}
    assert list(axes) == ["steps", "tokens", "arithmetic", "time"]
    steps, flops = axes["arithmetic"]["runs"][1]
    config = gather(runs["dense"]).config
    # Three forward passes of four rows a step, three steps.
    assert steps == [0, 3]
    assert flops[1] == pytest.approx(3 * 3 * forward_flops(config.model, 4), rel=1e-5)


def test_only_the_fields_that_differ_are_listed(page: Path):
    (table,) = blocks(page, "differences")
    assert table["header"] == ["field", "causal", "dense"]
    fields = [row[0] for row in table["rows"]]
    assert any(field.startswith("model.moe") for field in fields)
    assert "train.steps" not in fields


def test_other_units_are_said(runs: Runs):
    notes = caveats([gather(runs["causal"]), gather(runs["span"])])
    assert notes == ["The runs are measured in different units: bits per byte of different parts."]


def test_other_texts_are_said(runs: Runs, tmp_path: Path):
    from dataclasses import replace

    one = gather(runs["causal"])
    (note,) = caveats([one, replace(one, text="another")])
    assert note.startswith("The runs were trained on 2 different texts")
    (note,) = caveats([one, replace(one, text="")])
    assert note.startswith("Not every run says")
    more_rows = replace(one.config, train=replace(one.config.train, eval_rows=8))
    (note,) = caveats([one, replace(one, config=more_rows)])
    assert note.startswith("The number of held-out rows differs")


def test_runs_without_checkpoint_or_evaluation(tmp_path: Path):
    first = run_folder(tmp_path / "a" / "run", [step(1), step(2)])
    second = run_folder(tmp_path / "b" / "run", [evaluation(5, None)])
    page = report.compare([first, second])
    assert page == tmp_path / "a" / "comparison.html"
    table, _ = blocks(page, "figures")
    assert [row[0] for row in table["rows"]] == ["a/run", "b/run"]
    assert [axis["name"] for axis in document(page)["axes"]] == ["steps"]
    assert len(document(page)["notices"]) == 3
    assert blocks(page, "differences")[0]["text"].startswith("Nothing")


def test_the_command(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "both.html"
    given = [str(runs["causal"]), str(runs["span"]), "--out", str(out)]
    assert main(["report", *given]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert "different units" in json.dumps(document(out)["notices"])


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.0, "0"), (999.0, "999"), (1234.0, "1.23k"), (2.5e13, "25T"), (math.nan, "-")],
)
def test_sizes_in_words(value: float, words: str):
    assert short(value) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (math.nan, "-"),
        (0.5, "0.5 s"),
        (75.0, "1 min 15 s"),
        (7260.0, "2 h 1 min"),
        (90_000.0, "1 d 1 h"),
    ],
)
def test_durations_in_words(seconds: float, words: str):
    assert duration(seconds) == words
