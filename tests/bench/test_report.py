"""A result by hand as Markdown, JSON and a picture."""

import json

import pytest

from tests.bench.cases import result, row
from turnout.bench import report
from turnout.bench.chart import chart, draw
from turnout.config.errors import UserError


def line_of(text, way):
    (found,) = [line for line in text.splitlines() if f"| {way} |" in line]
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_a_line_by_hand():
    cells = line_of(report.markdown(result()), "turnout")
    # milliseconds 3, 4, 2; over dense 3/1, 4/2, 2/2; 1e6 FLOPs in 3 ms are 1/3 GFLOP/s of the 2
    # that the machine reached
    assert cells == [
        *("float32", "forward", "8", "turnout", "3.00 (2.50 to 3.50)", "2.00 (1.50 to 2.50)"),
        *("", "17%", "0.500", "2.0e-06"),
    ]


def test_the_time_of_a_part():
    shown = report.markdown(result(row(parts=10, unit="ms a token")))
    assert "| ms a token |" in shown
    assert line_of(shown, "turnout")[4] == "0.300 (0.250 to 0.350)"


def test_what_surrounds_the_table():
    shown = report.markdown(result())
    assert "2.00 (1.50 to 2.50) GFLOP/s in float32" in shown
    assert "reads of memory 5.00 (4.50 to 5.50) GB/s" in shown
    assert "- other: no room (dtype float32, mode forward, E 8)" in shown
    assert "A processor, Linux, AVX2, 2 cores, 1 threads" in shown


def test_contests_of_other_columns_have_a_table_of_their_own():
    shown = report.markdown(result(row(), row(facts={"dtype": "float32", "rows": 1})))
    assert sum(line.startswith("| ---") for line in shown.splitlines()) == 2


def test_json_and_back():
    made = result(row(), row(dtype="bfloat16", left_out={}))
    assert report.from_json(report.to_json(made)) == made
    data = json.loads(report.to_json(made))
    assert data["format"] == report.FORMAT
    assert data["rows"][0]["seconds"]["turnout"] == [0.003, 0.004, 0.002]
    assert data["machine"]["processor"] == "A processor"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}', '{"format": 1, "rows": [{}]}'])
def test_other_json_is_refused(text):
    with pytest.raises(UserError, match="not a result of `turnout bench` in format 1"):
        report.from_json(text)


def test_figures():
    assert [report.figure(value) for value in (5838.2, 12.345, 0.1234, 0.0, 3e-7, 4096, "x")] == [
        *("5,838", "12.35", "0.123", "0", "3.0e-07", "4,096", "x")
    ]


def test_the_chart_is_a_picture(tmp_path):
    path = draw(result(), tmp_path / "chart.png")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_chart_has_a_panel_a_mode_and_a_bar_a_way_but_the_base():
    other = row(facts={"dtype": "float32", "mode": "decode", "E": 8})
    text = json.dumps(chart(result(row(), other)).to_dict())
    assert '"text": "forward"' in text
    assert '"text": "decode"' in text
    assert '"low": 1.5, "high": 2.5' in text
    assert '"way": "dense"' not in text


def test_a_chart_of_nothing_is_refused():
    with pytest.raises(UserError, match="nothing was timed against another"):
        chart(result(row(seconds={"dense": (0.001,)})))
