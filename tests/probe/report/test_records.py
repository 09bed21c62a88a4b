"""What is read from metrics.jsonl, whatever is in it."""

import json
import math
from pathlib import Path

import pytest

from tests.probe.report.cases import evaluation, event, run_folder, step
from turnout.config.errors import UserError
from turnout.probe.report.facts import read_samples
from turnout.probe.report.records import MOST_EVENTS, json_lines, read_history


def test_columns_by_hand(tmp_path: Path):
    # A second a step (100 tokens at 100 a second), half a second for the evaluation behind step 2.
    records = [step(1), step(2), evaluation(2), step(3), {"kind": "checkpoint", "step": 3}]
    history = read_history(run_folder(tmp_path, records))
    assert list(history.step) == [1, 2, 3]
    assert list(history.seconds) == [1.0, 2.0, 3.5]
    assert list(history.scalars["bits"]) == [3.0, 1.5, 1.0]
    assert list(history.terms["balance"]) == [1.5, 1.5, 1.5]
    assert history.evaluations[2]["bits"] == 2.5
    assert history.saves == [3]
    layer = history.layers["decoder.1.moe"]
    assert list(layer.scalars["entropy"]) == [0.5] * 3
    assert [span.shares for span in layer.loads.spans()] == [(0.75, 0.25)] * 3


def test_a_number_that_is_none_is_nan(tmp_path: Path):
    broken = {"bits": None, "loss": "2", "gradient_norm": True, "tokens": [1], "terms": None}
    records = [step(1), step(2, **broken, learning_rate=10**400), step(3, layers={"x": 3})]
    tail = '{"kind": "step", "step": 4, "bits": NaN, "loss": Infinity}\n'
    history = read_history(run_folder(tmp_path, records, tail))
    assert list(history.step) == [1, 2, 3, 4]
    assert math.isnan(history.scalars["loss"][1])
    assert math.isnan(history.scalars["learning_rate"][1])
    assert math.isnan(history.scalars["gradient_norm"][1])
    assert [math.isnan(value) for value in history.scalars["bits"]] == [False, True, False, True]
    for layer in history.layers.values():
        assert {len(column) for column in layer.scalars.values()} == {4}
    assert {len(column) for column in history.terms.values()} == {4}


@pytest.mark.parametrize(
    "line",
    [
        '{"kind": "step", "step": 3, "bi',
        "null",
        "[1, 2]",
        '"step"',
        '{"kind": "step"}',
        '{"kind": "step", "step": "3"}',
        '{"kind": "step", "step": -1}',
        '{"kind": "step", "step": true}',
        '{"kind": "nothing", "step": 3}',
        "\0\0\0",
        "[" * 100_000,
    ],
)
def test_a_line_that_is_no_record_is_left_out(tmp_path: Path, line: str):
    folder = run_folder(tmp_path, [step(1), step(2)], f"{line}\n{json.dumps(step(5))}\n{line}")
    assert list(read_history(folder).step) == [1, 2, 5]


def test_steps_done_again_count_once_and_their_time_stays_spent(tmp_path: Path):
    records = [step(1), step(2), step(3, bits=9.0), step(2, bits=4.0), step(3, bits=5.0)]
    history = read_history(run_folder(tmp_path, records))
    assert list(history.step) == [1, 2, 3]
    assert list(history.scalars["bits"]) == [3.0, 4.0, 5.0]
    assert list(history.layers["decoder.1.moe"].scalars["balance"]) == [1.5] * 3
    # Three seconds for the first pass over steps 1 to 3, two more for steps 2 and 3 again.
    assert list(history.seconds) == [1.0, 4.0, 5.0]


def test_a_layer_that_is_not_always_there(tmp_path: Path):
    records = [step(1, layers={}), step(2), step(3, layers={})]
    layer = read_history(run_folder(tmp_path, records)).layers["decoder.1.moe"]
    assert [math.isnan(value) for value in layer.scalars["entropy"]] == [True, False, True]


def test_events_and_skipped_steps(tmp_path: Path):
    records = [
        step(1, skipped="loss is not finite"),
        event(2, "alarm", "one expert", "decoder.1.moe"),
        step(3, skipped="gradient"),
        event(3, "skip", "gradient"),
    ]
    events = read_history(run_folder(tmp_path, records)).events
    assert [(each.step, each.name, each.layer) for each in events] == [
        (1, "skip", ""),
        (2, "alarm", "decoder.1.moe"),
        (3, "skip", ""),
    ]
    assert events[0].text == "loss is not finite"


def test_events_are_bounded(tmp_path: Path):
    records = [step(1), *(event(1, "alarm", "again") for _ in range(MOST_EVENTS + 7))]
    history = read_history(run_folder(tmp_path, records))
    assert len(history.events) == MOST_EVENTS
    assert history.more_events == 7


def test_nothing_recorded(tmp_path: Path):
    with pytest.raises(UserError, match="is missing; give the folder"):
        read_history(tmp_path)
    with pytest.raises(UserError, match="holds no step"):
        read_history(run_folder(tmp_path, [event(1, "resume", "")]))


def test_evaluations_alone_are_a_history(tmp_path: Path):
    history = read_history(run_folder(tmp_path, [evaluation(7)]))
    assert history.last_step() == 7
    assert history.evaluation()["bits"] == 2.5


def test_lines_of_a_missing_file(tmp_path: Path):
    assert list(json_lines(tmp_path / "nothing")) == []


@pytest.mark.parametrize("text", ["", "[", "3", "{}", '["a", 3]', "[" * 100_000])
def test_samples_that_are_none(tmp_path: Path, text: str):
    (tmp_path / "samples.json").write_text(text)
    assert read_samples(tmp_path) == ()


def test_samples(tmp_path: Path):
    assert read_samples(tmp_path) == ()
    (tmp_path / "samples.json").write_text('[{"prompt": "a", "text": "ab"}, {"text": 3}]')
    assert [(s.prompt, s.text) for s in read_samples(tmp_path)] == [("a", "ab"), ("", "3")]
