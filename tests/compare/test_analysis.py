"""From given curves to figures, tables and pictures."""

import json
import math
import struct
from dataclasses import replace

import pytest

from tests.compare.cases import Launcher, outcome, protocol
from turnout.compare import charts
from turnout.compare.analysis import compare
from turnout.compare.conduct import conduct
from turnout.compare.runner import run_all
from turnout.compare.speed import Ratio
from turnout.compare.tables import loss_line, speed_line, to_json, to_markdown
from turnout.config.arms import arms
from turnout.config.compare import Decayed, Wider
from turnout.config.errors import UserError

# By experts of the model, 0 for dense ones, and by seed.
CURVES = {
    (0, 1): [4.0, 3.0, 2.5, 2.0],
    (0, 2): [4.0, 3.0, 2.0, 2.0],
    (4, 1): [3.0, 2.0, 1.5, 1.0],  # at 2.0 after 2 steps of 4
    (4, 2): [4.0, 2.5, 1.5, 1.0],  # at 2.0 half way from 2 to 3: 2.5 steps of 3
    (2, 1): [4.0, 3.5, 3.0, 2.2],  # never
}


def curve(config):
    moe = config.model.moe
    return CURVES.get(
        (0 if moe is None else moe.num_experts, config.train.seed), [4.0, 3.0, 2.5, 2.0]
    )


@pytest.fixture
def comparison(tmp_path):
    given = protocol(learning_rates=(1e-3,), experts=(2, 4))
    return compare(given, run_all(given, tmp_path, print, Launcher(curve)))


def test_speed_ups_seed_by_seed(comparison):
    two, main = comparison.pairs
    assert (main.baseline, main.arm, main.seeds) == ("dense", "experts-4", (1, 2))
    steps, arithmetic, clock = main.ratios
    assert steps == (Ratio(4 / 2), Ratio(3 / 2.5))
    # A sparse step costs the router's share more, and takes the same time here.
    dense, _, sparse = arms(comparison.protocol)
    more = sparse.step_flops / dense.step_flops
    assert [r.value for r in arithmetic] == pytest.approx([2 / more, 1.2 / more])
    assert [r.value for r in clock] == pytest.approx([2, 1.2])
    assert main.spreads[0].median.value == pytest.approx(1.6)
    # 1.0 - 2.0 in both seeds.
    assert (main.loss.median, main.loss.low, main.loss.high) == (-1.0, -1.0, -1.0)

    assert two.seeds == (1,)
    assert two.ratios == ((Ratio(None),),) * 3
    assert two.loss.median == pytest.approx(0.2)


def test_what_arms_cost(comparison):
    dense = comparison.arm("dense")
    # 64 tokens a step at 10 a second, four steps.
    assert dense.seconds.median == pytest.approx(25.6)
    assert dense.peak_memory.median == 300_000_000
    assert dense.loss.median == 2.0 and dense.trial == () and not dense.edge
    assert [seed.evaluating for seed in dense.seeds] == [2.0, 2.0]


def test_lines_for_a_terminal(comparison):
    two, main = comparison.pairs
    # A row: 327,680 FLOPs dense, 64 more for each of 32 tokens sparse, 1.00625 times as much.
    assert speed_line(main) == (
        "experts-4 against dense: 1.60 (1.20 to 2.00) by steps, 1.59 (1.19 to 1.99) by "
        "arithmetic, 1.60 (1.20 to 2.00) by training clock"
    )
    assert speed_line(two).startswith("experts-2 against dense: not reached by steps")
    assert loss_line(comparison.arm("dense")) == (
        "dense: validation loss 2.0000, rate 0.001, 25.6 s of training"
    )


def test_the_page_has_the_figures_and_what_they_were_measured_on(comparison):
    page = to_markdown(comparison, "turnout compare x", ["comparison.png"])
    for text in (
        "Command: `turnout compare x`",
        "Runs: 5 of 4 steps of 2 rows, evaluated every 1; seeds 1 to 2;",
        "Machine: some processor, 2 processors; 1 threads, float32.",
        "turnout 0.1.0, torch 2.13.0, Python 3.11.7",
        "| experts-4 | dense | 1.60 (1.20 to 2.00) | 1.59 (1.19 to 1.99) |",
        "| experts-2 | dense | not reached | not reached | not reached | +0.2000 | 1 |",
        "![comparison.png](comparison.png)",
    ):
        assert text in page
    assert "Trials" not in page
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {8, 10}


def test_the_figures_are_json_with_the_protocol(comparison):
    table = json.loads(to_json(comparison, "turnout compare x"))
    assert table["protocol"]["compare"]["experts"] == [2, 4]
    assert [arm["name"] for arm in table["arms"]] == ["dense", "experts-2", "experts-4"]
    main = table["speed_ups"][1]
    assert main["steps"]["spread"]["median"] == {"value": 1.6, "at_least": False}
    assert [ratio["value"] for ratio in main["steps"]["by_seed"]] == [2.0, 1.2]
    assert table["speed_ups"][0]["training_clock"]["spread"]["median"]["value"] is None
    seed = table["arms"][0]["seeds"][0]
    assert seed["curve"]["steps"] == [1, 2, 3, 4]
    assert seed["curve"]["loss"] == CURVES[0, 1]
    assert seed["curve"]["seconds"] == [6.4, 12.8, 19.2, 25.6]
    assert table["runs"]["dense-lr0.001-seed1"]["peak_memory"] == 300_000_000


def test_trials_edges_and_borrowed_rates_are_told(tmp_path):
    given = protocol(experts=(2, 4), tune="pair", wider=Wider(), weight_decay=Decayed())
    finished = run_all(given, tmp_path, print, Launcher(curve))
    found = compare(given, finished)
    assert found.arm("dense").edge
    assert found.arm("dense").trial == ((1e-3, 2.0), (1e-2, 2.0))
    page = to_markdown(found, "x")
    assert "| dense | 2.0000 | 2.0000 |" in page
    assert "- dense: its learning rate is at the edge of those tried" in page
    assert "- experts-2: the learning rate is the one chosen for experts-4" in page
    assert "- dense-wider: d_ff 41, 2 layers: 1." in page
    assert "- dense-decay: weight decay 0.1 on matrices" in page


def test_a_run_that_failed_has_no_speed_up(tmp_path):
    given = protocol(learning_rates=(1e-3,))
    finished = run_all(given, tmp_path, print, Launcher(curve))
    bad = replace(finished[1], track=None, outcome=outcome(failed="10 steps were skipped"))
    found = compare(given, (finished[0], bad, *finished[2:]))
    assert found.pairs[0].ratios[0] == (Ratio(None), Ratio(3 / 2.5))
    assert found.pairs[0].loss.median is None
    page = to_markdown(found, "x")
    assert "not reached (up to 1.20, reached by 1 of 2 seeds)" in page
    assert "- experts-4-lr0.001-seed1: 10 steps were skipped" in page
    assert "NaN" not in to_json(found, "x")


def test_losses_over_different_targets_are_refused(tmp_path):
    given = protocol(learning_rates=(1e-3,))
    finished = run_all(given, tmp_path, print, Launcher(curve))
    other = replace(finished[1], track=replace(finished[1].track, targets=49))
    with pytest.raises(UserError, match=r"evaluated on 49 targets, dense-lr0.* on 50"):
        compare(given, (finished[0], other, *finished[2:]))


def test_curves_are_drawn_from_what_was_recorded(comparison):
    drawn = charts.curves(comparison).to_dict()
    text = json.dumps(drawn)
    for name in ("experts-4", "experts-2", "optimiser steps", "seconds of training steps"):
        assert name in text
    rows = [row for data in _values(drawn) for row in data if "spent" in row]
    assert {(row["arm"], row["seed"]) for row in rows} == {
        *(("dense", 1), ("dense", 2), ("experts-4", 1), ("experts-4", 2), ("experts-2", 1))
    }
    assert {row["spent"] for row in rows if row["spent"] == int(row["spent"])} == {1, 2, 3, 4}


def test_larger_arms_are_drawn_by_arithmetic_too(tmp_path, comparison):
    given = protocol(learning_rates=(1e-3,), wider=Wider())
    found = compare(given, run_all(given, tmp_path / "wider", print, Launcher(curve)))
    assert "FLOPs of training steps" in json.dumps(charts.curves(found).to_dict())
    assert "FLOPs of training steps" not in json.dumps(charts.curves(comparison).to_dict())


def test_speed_up_against_experts_leaves_out_what_was_not_reached(comparison):
    rows = [r for data in _values(charts.experts(comparison).to_dict()) for r in data]
    found = {(r["experts"], r["measure"], round(r["ratio"], 3)) for r in rows if "experts" in r}
    assert found == {
        (4, measure, ratio)
        for measure in ("by steps", "by training clock")
        for ratio in (2.0, 1.6, 1.2)
    }


def test_a_curve_that_is_nowhere_finite_is_drawn_as_nothing(comparison):
    never = replace(comparison.arms[0].tracks[0], losses=(math.inf,) * 4)
    arm = replace(comparison.arms[0], tracks=(never, None))
    drawn = charts.curves(replace(comparison, arms=(arm,))).to_dict()
    assert not [row for data in _values(drawn) for row in data if "spent" in row]


def _values(chart):
    """Every inline data set of a chart."""
    if isinstance(chart, dict):
        if isinstance(chart.get("data"), dict) and "values" in chart["data"]:
            yield chart["data"]["values"]
        for part in chart.values():
            yield from _values(part)
    elif isinstance(chart, list):
        for part in chart:
            yield from _values(part)


def test_everything_is_written(tmp_path):
    given = protocol(learning_rates=(1e-3,), experts=(2, 4, 6))
    done = conduct(given, tmp_path, print, "turnout compare x", Launcher(curve))
    assert [path.name for path in done.pictures] == ["comparison.png", "experts.png"]
    for picture in done.pictures:
        data = picture.read_bytes()
        assert data.startswith(b"\x89PNG") and min(struct.unpack(">2I", data[16:24])) > 500
    assert done.page.read_text().count("![") == 2
    assert json.loads(done.figures.read_text())["command"] == "turnout compare x"


def test_without_the_pictures_extra_the_page_has_none(tmp_path, monkeypatch):
    monkeypatch.setattr("turnout.compare.conduct.available", lambda: False)
    done = conduct(protocol(), tmp_path, print, "x", Launcher(curve))
    assert done.pictures == () and "![" not in done.page.read_text()
