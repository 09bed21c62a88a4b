"""``turnout simulate`` as it is typed."""

import json

import pytest

from turnout.cli.main import main


def test_json_holds_all_that_was_counted(capsys: pytest.CaptureFixture[str]) -> None:
    line = "simulate switch_tiny --ranks 4 --parallel.expert 2 --load zipf:1.2 --json"
    assert main(line.split()) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found["load"] == "zipf:1.2"
    assert found["against_plan"] is None  # which knows even loads alone
    assert set(found["seen_from"]) == {"first", "last", "most loaded"}
    assert {each["operation"] for each in found["seen_from"]["last"]["cost"]["collectives"]} == {
        "all_gather",
        "reduce_scatter",
        "all_reduce",
        "all_to_all",
    }
    assert "first rank (0 of 4)" in printed.err


def test_the_tables_name_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "switch_tiny", "--ranks", "2"]) == 0
    printed = capsys.readouterr().out
    assert "all as planned" in printed
    assert "dispatch + activations" in printed


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("--ranks many", "--ranks many: must be a whole number, such as 64"),
        ("--ranks 1", "--ranks 1: must be at least 2; one process needs no simulation"),
        ("--ranks 6 --parallel.expert 4", "parallel.expert = 4: must be one of 1, 2, 3, 6"),
        ("--ranks 4 --load zipf:x", "--load zipf:x: must be zipf:EXPONENT, such as zipf:1.0"),
        ("--ranks 4 --load nowhere", "cannot read the record 'nowhere'"),
    ],
)
def test_mistakes_are_one_line(line: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "switch_tiny", *line.split()]) == 2
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1
