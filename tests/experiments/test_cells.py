"""Cells of an experiment: what is run, what is kept, what is read from a finished one."""

import json
import subprocess

import pytest
from experiments.cells import Traffic

from experiments import cells


def step(assigned, dropped, unrouted, speed):
    layer = {"assigned": assigned, "dropped": dropped, "unrouted": unrouted, "tokens": 8}
    return {"kind": "step", "tokens_per_second": speed, "layers": {"decoder.1.moe": layer}}


RECORDS = [
    step([8, 0], 0.5, 4, 100.0),
    step([2, 6], 0.25, 1, 300.0),
    {"kind": "evaluation", "loss": 3.0},
    step([4, 4], 0.0, 0, 200.0),
    {"kind": "evaluation", "loss": 2.5},
]


@pytest.fixture
def trained(monkeypatch):
    """Stands in for ``turnout train``; the commands it was called with."""
    called = []

    def train(command, stdout, stderr, env):
        called.append(command)
        out = command[command.index("--out") + 1]
        if "--fail" in command:
            return subprocess.CompletedProcess(command, 2)
        with open(f"{out}/metrics.jsonl", "w") as file:
            file.writelines(json.dumps(record) + "\n" for record in RECORDS)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", train)
    return called


def test_a_finished_run_by_hand(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "LAST", 2)
    (cell,) = cells.cells({"one": ()}, [1], ())
    result = cells.run([cell], "p", tmp_path, jobs=1)[cell]
    # The last two steps: loads 2 + 4 and 6 + 4, so 6 and 10, mean 8, standard deviation 2. All
    # three: 8 * 0.5 + 8 * 0.75 + 8 = 18 computed, of 24 tokens.
    assert result.traffic == {
        "decoder.1.moe": Traffic(
            variation=0.25, violation=0.25, dropped=0.125, unrouted=1 / 16, computed=0.75
        )
    }
    assert (result.loss, result.speed) == (2.5, 200.0)
    assert result.mean(lambda traffic: traffic.violation) == 0.25


def test_what_is_done_is_not_done_again_and_what_was_cut_off_is(trained, tmp_path):
    table = cells.cells({"one": (), "two, b": ("--x", "1")}, [1, 2], ("--x", "0", "--y", "3"))
    assert [cell.name for cell in table] == ["one-seed1", "two-b-seed1", "one-seed2", "two-b-seed2"]
    assert table[1].options == ("--x", "1", "--y", "3", "--train.seed", "1")
    half = tmp_path / table[1].name
    half.mkdir()
    (half / "metrics.jsonl").write_text("{")
    assert cells.run(table[:1], "p", tmp_path, jobs=1).keys() == {table[0]}
    found = cells.run(table, "p", tmp_path, jobs=2)
    assert list(found) == list(table)
    assert len(trained) == 4


def test_no_cell_begins_too_late_and_a_failed_one_is_missing(trained, tmp_path, capsys):
    good, bad = cells.cells({"good": (), "bad": ("--fail", "1")}, [1], ())
    assert cells.run([good, bad], "p", tmp_path, jobs=1, until=0.0) == {}
    assert trained == []
    assert cells.run([good, bad], "p", tmp_path, jobs=1).keys() == {good}
    assert "bad-seed1: exit 2" in capsys.readouterr().err


def test_spreads_and_tables():
    assert cells.spread([1.0]) == "1.000"
    assert cells.spread([1.0, 3.0, 2.0], ".1f") == "2.0 (1.0 to 3.0)"
    columns = (("n", lambda results: str(len(results))),)
    assert (
        cells.markdown({"a": [], "b": []}, columns)
        == "| arm | n |\n|---|---|\n| a | 0 |\n| b | 0 |"
    )
