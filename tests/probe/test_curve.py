"""The records of a run as a curve."""

import json
from pathlib import Path

import pytest

from turnout.config.errors import UserError
from turnout.probe.curve import METRICS, Curve, Point, read_curve


def write(folder: Path, *records: object) -> None:
    lines = [each if isinstance(each, str) else json.dumps(each) for each in records]
    (folder / METRICS).write_text("\n".join(lines))


def step(number: int, bits: float | None) -> dict[str, object]:
    return {"kind": "step", "step": number, "bits": bits}


def test_steps_and_evaluations_in_order(tmp_path: Path):
    write(
        tmp_path,
        step(2, 5.0),
        step(1, 8.0),
        {"kind": "evaluation", "step": 2, "bits": 4.5},
        {"kind": "checkpoint", "step": 2, "folder": "x"},
        step(3, None),
        '{"kind": "step", "st',
    )
    curve = read_curve(tmp_path)
    assert curve.training == (Point(1, 8.0), Point(2, 5.0))
    assert curve.validation == (Point(2, 4.5),)


def test_lines_that_are_no_records_are_left_out(tmp_path: Path):
    write(tmp_path, "[]", "7", "null", '{"step": 1}', step(1, 2.0), '{"kind": "step", "bits": 1}')
    assert read_curve(tmp_path).training == (Point(1, 2.0),)


def test_no_file_and_no_step(tmp_path: Path):
    with pytest.raises(UserError, match=r"metrics\.jsonl is missing; give the folder of a run"):
        read_curve(tmp_path)
    write(tmp_path, {"kind": "checkpoint", "step": 2})
    with pytest.raises(UserError, match="holds no step"):
        read_curve(tmp_path)


def test_means_by_hand():
    curve = Curve(tuple(Point(i, float(i * i)) for i in range(1, 6)), ())
    # (1 + 4 + 9) / 3, (4 + 9 + 16) / 3, (9 + 16 + 25) / 3
    assert [(p.step, pytest.approx(p.bits)) for p in curve.smoothed(3)] == [
        (2, 14 / 3),
        (3, 29 / 3),
        (4, 50 / 3),
    ]
    assert curve.smoothed(1) == curve.training
    assert curve.smoothed(7) == ()
