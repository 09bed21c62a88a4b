"""What is read from the records of a run."""

import json
import math

import pytest

from tests.compare.cases import metrics, outcome
from turnout.compare.track import RESULT, read_outcome, read_track, write_outcome
from turnout.config.errors import UserError


def write(folder, text):
    (folder / "metrics.jsonl").write_text(text)
    return read_track(folder)


def test_steps_losses_and_clock(tmp_path):
    # 64 tokens at 16 a second: 4 seconds a step.
    track = write(tmp_path, metrics([3.0, 2.5, 2.0], rate=16.0))
    assert track.steps == (1, 2, 3)
    assert track.losses == (3.0, 2.5, 2.0)
    assert track.seconds == pytest.approx((4.0, 8.0, 12.0))
    assert track.evaluating == pytest.approx(1.5)
    assert track.targets == 50
    assert track.flops(1000) == (1000.0, 2000.0, 3000.0)


def test_the_clock_runs_through_steps_that_were_not_evaluated(tmp_path):
    lines = [json.loads(line) for line in metrics([3.0, 2.5, 2.0], rate=16.0).splitlines()]
    kept = [line for line in lines if line["kind"] == "step" or line["step"] == 3]
    track = write(tmp_path, "".join(json.dumps(line) + "\n" for line in kept))
    assert track.steps == (3,)
    assert track.seconds == pytest.approx((12.0,))


def test_a_loss_that_was_not_finite_is_infinite(tmp_path):
    assert write(tmp_path, metrics([3.0, None])).losses == (3.0, math.inf)


def test_half_a_line_and_a_second_evaluation_of_a_step(tmp_path):
    # A run resumed at its last step is evaluated there again.
    again = {"kind": "evaluation", "step": 2, "loss": 2.4, "targets": 50, "seconds": 1.0}
    text = metrics([3.0, 2.5]) + json.dumps(again) + '\n{"kind": "st'
    assert write(tmp_path, text).losses == (3.0, 2.4)


def test_a_speed_that_was_rounded_away_is_not_divided_by(tmp_path):
    assert math.isfinite(write(tmp_path, metrics([3.0], rate=0.0)).seconds[0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no evaluation"),
        ("\0\xff nonsense\n", "holds no evaluation"),
        (metrics([3.0, 2.0]).split("\n", 1)[1], "lacks step 1"),
    ],
)
def test_records_that_cannot_be_used_are_one_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as error:
        write(tmp_path, text)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"metrics\.jsonl is missing"):
        read_track(tmp_path)


def test_an_outcome_comes_back(tmp_path):
    written = outcome(failed="diverged", peak_memory=None)
    write_outcome(tmp_path, written)
    assert read_outcome(tmp_path) == written
    assert [path.name for path in tmp_path.iterdir()] == [RESULT]


@pytest.mark.parametrize("text", [None, "", "{", "[]", "{}", '{"step": 3}'])
def test_a_broken_outcome_is_none(tmp_path, text):
    if text is not None:
        (tmp_path / RESULT).write_text(text)
    assert read_outcome(tmp_path) is None
