"""``turnout eval``: tasks, comparisons and domains from the command line, and its refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.evaluate.subjects import subject_of, write_task

from turnout.cli.eval_progress import lines
from turnout.config.objective import CausalConfig
from turnout.convert.api import save
from turnout.evaluate.library import built_in

Turnout = Callable[..., Any]
CHOICES = """
kind = "choices"
inputs = "{q}"
choices = ["odd", "even"]
answer = "label"
domain = "size"
metrics = ["f1"]
"""


def examples(count: int) -> list[dict[str, Any]]:
    return [
        {"q": f"is {n} odd?", "label": 1 - n % 2, "size": "small" if n < 5 else "large"}
        for n in range(count)
    ]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Two runs and a task, beside each other."""
    for number, case in enumerate(("modern", "olmoe")):
        save(subject_of(case, CausalConfig()).model, tmp_path / f"run{number}")
    write_task(tmp_path / "parity", CHOICES, train=examples(8), validation=examples(9))
    (tmp_path / "parity" / "text.toml").write_text('kind = "text"\ntargets = "{q}"\n')
    return tmp_path


def test_tasks_are_listed(turnout: Turnout) -> None:
    listed = turnout("eval", "--list")
    assert listed.code == 0
    assert [line.split()[0] for line in listed.out.splitlines()] == sorted(built_in())


def test_a_table_and_two_files(turnout: Turnout, place: Path) -> None:
    files = ("--json", "scores.json", "--examples", "examples.jsonl")
    result = turnout("eval", "run0", "--task", "parity", "parity/text.toml", *files)
    assert result.code == 0, result.err
    heading, head, *rows = result.out.splitlines()
    assert heading == "run0, 0 shots, validation, seed 0"
    assert head.split() == ["task", "measure", "score", "95%", "interval", "chance", "n"]
    assert [row.split()[1] for row in rows if row.startswith("parity")] == [
        *("accuracy", "accuracy_per_byte", "f1", "bits_per_answer_byte", "ece", "brier"),
    ]
    assert [row.split()[1] for row in rows if row.startswith("text")] == [
        *("bits_per_byte", "perplexity"),
    ]
    assert {row.split()[0] for row in rows if row.startswith("  ")} == {"small", "large"}

    scores = json.loads(Path("scores.json").read_text())
    task, text = scores["runs"][0]["tasks"]
    accuracy = task["measures"]["accuracy"]
    assert accuracy["chance"] == 0.5 and accuracy["n"] == 9
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    assert task["domains"]["small"]["accuracy"]["n"] == 5
    assert (task["task"], text["task"], text["examples"]) == ("parity", "text", 9)

    written = [json.loads(line) for line in Path("examples.jsonl").read_text().splitlines()]
    assert len(written) == 18 and written[0]["run"] == "run0"
    said = [each["prediction"] == each["target"] for each in written[:9]]
    assert sum(said) / 9 == pytest.approx(accuracy["value"])


def test_the_same_again_is_the_same(turnout: Turnout, place: Path) -> None:
    options = ("--task", "parity", "--shots", "2", "--limit", "5", "--seed", "3")
    outputs = [turnout("eval", "run1", *options).out for _ in range(2)]
    assert outputs[0] == outputs[1] and " 5\n" in outputs[0]
    # Two shots do not fit into rows of 64 bytes with every question.
    assert turnout("eval", "run1", "--task", "parity", "--shots", "4").out.count("lost the left")


def test_examples_from_elsewhere(turnout: Turnout, place: Path) -> None:
    data = json.dumps({"premise": "p", "hypothesis": "h", "label": 0}) + "\n"
    Path("mine.jsonl").write_text(data * 4)
    options = ("--task", "cb", "--task-data", "cb=mine.jsonl")
    assert "accuracy" in turnout("eval", "run0", *options).out


def test_two_runs_are_compared(turnout: Turnout, place: Path) -> None:
    options = ("--task", "parity", "--json", "c.json")
    result = turnout("eval", "--compare", "run0", "run1", *options)
    assert result.code == 0, result.err
    assert "second - first" in result.out
    last = result.out.splitlines()[-1]
    assert last.startswith("parity, accuracy: ") and "p = " in last
    (found,) = json.loads(Path("c.json").read_text())["comparison"]
    accuracy = found["measures"]["accuracy"]
    assert accuracy["difference"] == pytest.approx(accuracy["second"] - accuracy["first"])
    assert accuracy["test"] == "exact McNemar" and found["measures"]["ece"]["test"] == "permutation"
    same = turnout("eval", "--compare", "run0", "run0", "--task", "parity").out
    assert same.splitlines()[-1].endswith(
        "no difference that chance would not make (p = 1, not below 0.05)"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the following arguments are required: RUN"),
        (("run0", "--shots", "1"), "--shots: goes with --task"),
        (("run0", "--json", "x.json"), "--json: goes with --task"),
        (("run0", "--label", "0"), "--label: goes with --task"),
        (("--compare", "run0", "run1"), "--compare: goes with --task"),
        (("run0", "--compare", "run0", "run1", "--task", "cb"), "leave out run0"),
        (("run0", "--task", "cb", "--data", "x"), "--data: does not go with --task"),
        (("run0", "--task", "cb", "--by-domain"), "--by-domain: does not go with --task"),
        (("run0", "--task", "cb", "--train.dtype", "float32"), "--train.dtype: does not go with"),
        (("run0", "--task", "bolq"), "did you mean 'boolq'?"),
        (("run0", "--task", "parity", "parity"), "task 'parity': given twice"),
        (("run0", "--task", "parity", "--shots", "-1"), "--shots = -1: must be at least 0"),
        (("run0", "--task", "parity", "--shots", "x"), "argument --shots: invalid int value"),
        (("run0", "--task", "parity", "--limit", "0"), "--limit = 0: must be at least 1"),
        (("run0", "--task", "parity", "--split", "dev"), "argument --split: invalid choice: 'dev'"),
        (("run0", "--task", "parity", "--split", "test"), "has no test.jsonl; it has train, valid"),
        (("run0", "--task", "parity", "--task-data", "x"), "--task-data x: must be NAME=PATH"),
        (("run0", "--task", "parity", "--task-data", "x=y"), "--task-data x: no such task is"),
        (("run0", "--task", "parity", "--task-data", "a=b", "a=c"), "--task-data a: given twice"),
        (("run0", "--task", "parity", "--json", "no/x.json"), "must be a file in a folder that"),
        (("run0", "--task", "parity", "--seed", "-1"), "--seed = -1: must be at least 0"),
        (
            ("run0", "--task", "parity", "--json", "x", "--examples", "./x"),
            "--examples ./x: --json writes there; give another file",
        ),
        (("run0", "--task", "parity", "--form", "span"), "form = 'span': must be causal"),
        (("nowhere", "--task", "parity"), "nowhere: no such run folder"),
        (("run0", "--by-domain"), "--by-domain: the run has no mixture; give each domain's path"),
    ],
)
def test_every_mistake_is_one_line(
    turnout: Turnout, place: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = turnout("eval", *arguments)
    assert result.code == 2
    assert message in result.err and result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    assert not list(place.glob("*.json"))


def test_nothing_is_written_where_a_later_task_fails(turnout: Turnout, place: Path) -> None:
    (place / "parity" / "bad.toml").write_text(CHOICES.replace('"label"', '"lable"'))
    result = turnout("eval", "run0", "--task", "parity", "parity/bad.toml", "--json", "x.json")
    assert result.code == 2 and "no field 'lable'" in result.err and result.out == ""
    assert not Path("x.json").exists()


def test_domains_of_paths(
    turnout: Turnout, tiny: dict[str, tuple[str, ...]], tmp_path: Path
) -> None:
    assert turnout("train", *tiny["causal"], "--out", "run").code == 0
    for name, letter in (("one", "a"), ("two", "z")):
        (tmp_path / name).mkdir()
        for number in range(6):
            (tmp_path / name / f"{number}.txt").write_text(f"{letter}{number} " * 400)
    result = turnout("eval", "run", "--by-domain", "--data", "one", "two")
    assert result.code == 0, result.err
    head, first, second = result.out.splitlines()
    assert head.split() == ["domain", "targets", "bytes", "loss", "perplexity", "bits/byte"]
    assert first.split()[0] == "one" and second.split()[0] == "two"
    _, targets, size, loss, perplexity, bits = first.split()
    numbers = [float(each.replace(",", "")) for each in (targets, size, loss, perplexity, bits)]
    assert numbers[3] == pytest.approx(2.718281828 ** numbers[2], rel=1e-3)
    assert numbers[4] == pytest.approx(numbers[2] * numbers[0] / numbers[1] / 0.693147, rel=1e-3)
    alone = turnout("eval", "run", "--data", "two").out
    assert f"validation loss {second.split()[3]}" in alone


def test_domains_of_a_mixture(
    turnout: Turnout, tiny: dict[str, tuple[str, ...]], tmp_path: Path, text_folder: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for number in range(6):
        (other / f"{number}.txt").write_text(f"word{number} " * 400)
    options = " ".join(tiny["causal"]).split("--data")[1].split()[1:]
    (tmp_path / "mixed.toml").write_text(
        'preset = "switch_tiny"\n[data]\npaths = []\n'
        f'[[data.mixture.sources]]\nname = "code"\npaths = ["{text_folder}"]\n'
        f'[[data.mixture.sources]]\nname = "words"\npaths = ["{other}"]\n'
    )
    trained = turnout("train", "--config", "mixed.toml", *options, "--out", "run")
    assert trained.code == 0, trained.err
    rows = turnout("eval", "run", "--by-domain").out.splitlines()
    assert [row.split()[0] for row in rows[1:]] == ["code", "words"]
    whole = turnout("eval", "run").out
    assert f"code {rows[1].split()[3]}" in whole and f"words {rows[2].split()[3]}" in whole


def test_progress_is_told_now_and_then() -> None:
    """A line behind three seconds, and one each ten; none at the end."""
    said: list[str] = []
    now = [0.0]
    tell = lines("boolq", said.append, lambda: now[0])
    for second in range(30):
        now[0] = float(second)
        tell(second * 100, 2900)
    assert said == [f"boolq: {n:,} of 2,900 rows" for n in (300, 1300, 2300)]


def test_the_second_run_is_looked_at_before_the_first_is_asked(
    turnout: Turnout, place: Path
) -> None:
    result = turnout("eval", "--compare", "run0", "nowhere", "--task", "parity")
    assert result.code == 2 and "nowhere: no such run folder" in result.err
    assert result.out == ""
