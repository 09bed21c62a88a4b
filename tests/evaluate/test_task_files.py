"""Tasks from files: what they may say, and one line for what they may not."""

from pathlib import Path
from typing import Any

import pytest

from tests.evaluate.subjects import write_lines, write_task
from turnout.config.errors import ConfigError, UserError
from turnout.config.task import ChoicesTask, GenerateTask
from turnout.evaluate.library import MOST_SHOTS_READ, built_in, find, find_all
from turnout.evaluate.questions import Question, questions
from turnout.evaluate.records import Record
from turnout.evaluate.run import Options, prepare
from turnout.evaluate.template import Template

YES_NO = """
kind = "choices"
inputs = "asked: {q}"
choices = ["no", "yes"]
answer = "label"
"""


def one(task: Any, **fields: Any) -> Question:
    (found,) = questions(task, [Record(fields, "here line 1")])
    return found


def test_a_folder_a_file_and_a_name(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "sky", YES_NO, validation=[{"q": "blue?", "label": 1}])
    found = find(str(folder))
    assert found.name == "sky"
    expected = Question(
        "asked: blue?",
        "yes",
        f"{folder / 'validation.jsonl'} line 1",
        choices=("no", "yes"),
        answer=1,
        references=("yes",),
    )
    assert found.scored("validation") == [expected]
    assert find(str(folder / "task.toml")).name == "task"
    assert find("boolq").task == built_in()["boolq"]


def test_a_name_that_comes_along_wins_over_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_task(tmp_path / "boolq", YES_NO)
    monkeypatch.chdir(tmp_path)
    assert find("boolq").task == built_in()["boolq"]
    assert find("./boolq").task.inputs == "asked: {q}"


def test_shots_come_from_all_of_a_local_file(tmp_path: Path) -> None:
    entries = [{"q": str(number), "label": 0} for number in range(MOST_SHOTS_READ + 200)]
    found = find(str(write_task(tmp_path / "sky", YES_NO, train=entries)))
    assert len(found.pool()) == MOST_SHOTS_READ + 200


def test_the_name_in_the_file_wins(tmp_path: Path) -> None:
    assert find(str(write_task(tmp_path / "a", 'name = "b"\n' + YES_NO))).name == "b"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (YES_NO + 'lables = "x"', r"lables: no such option of kind 'choices'; known|did you mean"),
        (YES_NO + 'anser = "x"', r"anser: no such option of kind 'choices'; did you mean 'answer'"),
        (YES_NO.replace('answer = "label"', ""), "answer: required and not given"),
        ('inputs = "{q}"', "kind: required and not given; kinds: choices, generate, text"),
        ('kind = "choice"\ninputs = ""', r"kind = 'choice': must be .*did you mean 'choices'"),
        (YES_NO.replace('["no", "yes"]', '["no"]'), r"choices = \('no',\): must be a list of at "),
        (YES_NO.replace('["no", "yes"]', '["no", "no"]'), "at least two different templates"),
        (YES_NO.replace('["no", "yes"]', "3"), "choices = 3: must be a string"),
        (YES_NO.replace('"asked: {q}"', "7"), "inputs = 7: must be a string"),
        (YES_NO + 'metrics = ["f2"]', r"metrics = 'f2': must be one of matthews, f1"),
        (
            YES_NO.replace('["no", "yes"]', '["a", "b", "c"]') + 'metrics = ["f1"]',
            "left out unless choices is a list of two",
        ),
        ('kind = "generate"\ninputs = ""', "targets = '': must be a template; or give a field"),
        ('kind = "generate"\ninputs = ""\ntargets = "a"\nmetrics = ["blue"]', "mean 'bleu'"),
        ('kind = "generate"\ninputs = ""\ntargets = "a"\nmax_tokens = 0', "max_tokens = 0: must"),
        ('kind = "generate"\ninputs = ""\ntargets = "a"\nstop = [""]', "stop = '': must be a text"),
        (YES_NO + '[splits]\ntest = ""', "splits.test = '': must be the name of a split"),
        ("kind = ", "is not valid TOML"),
    ],
)
def test_a_file_that_cannot_be(tmp_path: Path, text: str, message: str) -> None:
    folder = write_task(tmp_path / "task", text)
    with pytest.raises(UserError, match=message) as raised:
        find(str(folder))
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(str(folder / "task.toml"))


def test_names_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"task 'bolq': no such task.*did you mean 'boolq'"):
        find("bolq")
    with pytest.raises(UserError, match="`turnout eval --list` names those there are"):
        find("zzzzzz")
    with pytest.raises(UserError, match=r"the folder holds no task\.toml"):
        find(str(tmp_path))
    with pytest.raises(UserError, match=r"cannot read .*No such file"):
        find(str(tmp_path / "no.toml"))


def test_examples_from_elsewhere(tmp_path: Path) -> None:
    """``data`` replaces the source of a task by its name."""
    file = write_lines(
        tmp_path / "mine.jsonl", [{"passage": "p", "question": "q", "label": True}] * 3
    )
    found = find("boolq", {"boolq": str(file)})
    assert [each.inputs for each in found.scored("test")] == ["boolq passage: p question: q"] * 3
    assert found.scored("test")[0].target == "True"
    many = find("boolq", {"boolq": str(tmp_path / "m*.jsonl")})
    assert len(many.scored("validation")) == 3


def test_an_empty_split_and_one_that_is_not_there(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "sky", YES_NO, validation=[])
    with pytest.raises(UserError, match=r"task 'sky': its split 'validation' holds no example"):
        find(str(folder)).scored("validation")
    with pytest.raises(UserError, match=r"has no test\.jsonl; it has validation"):
        find(str(folder)).scored("test")
    with pytest.raises(UserError, match="no such file"):
        find("boolq", {"boolq": str(tmp_path / "none.jsonl")}).scored("test")
    with pytest.raises(UserError, match=r"must be a \.jsonl file, a folder, or hf:NAME"):
        find("boolq", {"boolq": str(tmp_path / "none.csv")}).scored("test")


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({"q": "x", "label": 2}, r"label = 2: must be from 0 to 1"),
        ({"q": "x", "label": -1}, r"label = -1: .*this split hides its labels: score another"),
        ({"q": "x", "label": "maybe"}, r"label = 'maybe': must be one of 'no', 'yes'"),
        ({"q": "x", "label": None}, r"label = None: must be one of 'no', 'yes'"),
        ({"label": 0}, r"no field 'q', which inputs asks for"),
        ({"Q": "x", "label": 0}, r"no field 'q', which inputs asks for; did you mean|known"),
        ({"q": None, "label": 0}, r"field 'q' of inputs holds null: must be text or a number"),
        ({"q": [{"a": 1}], "label": 0}, r"field 'q' of inputs holds dict: must be text"),
        ([1], r"must be a JSON object such as .*not list"),
    ],
)
def test_an_example_that_cannot_be_is_named(tmp_path: Path, example: Any, message: str) -> None:
    good = {"q": "x", "label": 0}
    folder = write_task(tmp_path / "sky", YES_NO, validation=[good, example])
    with pytest.raises(UserError, match=message) as raised:
        find(str(folder)).scored("validation")
    assert f"{folder / 'validation.jsonl'} line 2" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_lines_that_are_no_json(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "sky", YES_NO, validation=[])
    for raw in (b"{", b'{"q": "\xff", "label": 0}', b"[" * 100_000, b'{"a":' * 900 + b"1"):
        (folder / "validation.jsonl").write_bytes(b"\n" + raw + b"\n")
        with pytest.raises(UserError, match=r"validation\.jsonl line 2: not JSON"):
            find(str(folder)).scored("validation")


def test_half_a_surrogate_pair_is_no_text() -> None:
    task = GenerateTask("{q}", "{a}")
    found = one(task, q="x\ud800y", a="\ud83d\ude00")
    assert found.inputs == "x\ufffdy" and found.target == "\U0001f600"


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "{q.__class__}x{q[0]}",
        "{q!r}",
        "{q:>900000000}",
        "{q:{w}}",
        "{q",
        "q}",
        "{q.}",
        "{ q}",
    ],
)
def test_templates_name_fields_and_nothing_else(text: str) -> None:
    with pytest.raises(ConfigError, match=r"inputs = .*: must be a template") as raised:
        Template.of(text, "inputs")
    assert "\n" not in str(raised.value)


def test_no_template_reaches_an_attribute() -> None:
    with pytest.raises(UserError, match=r"no field 'q\.__class__', which inputs asks for"):
        Template.of("{q.__class__}", "inputs").fill(Record({"q": "x"}, "here"))


def test_templates_by_hand() -> None:
    record = Record({"a": "x", "b.c": 2, "d": 2.5, "e": ["p", "q"], "f": True}, "here")
    filled = Template.of("{{{a}}} {b.c} {d} {d:.0f}/{b.c:.1f} {e} {f}", "inputs").fill(record)
    assert filled == "{x} 2 2.5 2/2.0 p, q True"
    with pytest.raises(UserError, match="must be a number"):
        Template.of("{a:.1f}", "inputs").fill(record)


def test_answers_by_place_name_and_text() -> None:
    listed = ChoicesTask("{q}", ("{one}", "{two}"), "label", names=("1", "2"))
    found = one(listed, q="?", one="a", two="b", label="2")
    assert (found.choices, found.answer, found.target) == (("a", "b"), 1, "b")
    assert one(listed, q="?", one="a", two="b", label=1).answer == 0  # a name, not a place
    field = ChoicesTask("{q}", "c.text", "key", names="c.label")
    fields = {"q": "?", "c.text": ["a", "b", "c"], "c.label": ["A", "B", "C"]}
    assert one(field, **fields, key="C").answer == 2
    with pytest.raises(UserError, match=r"key = 'D': must be one of 'A', 'B', 'C'"):
        one(field, **fields, key="D")
    with pytest.raises(UserError, match="names has 2 entries, choices 3"):
        one(field, **(fields | {"c.label": ["A", "B"]}), key="A")
    with pytest.raises(UserError, match="choices has 1 entry: must be at least two"):
        one(field, **(fields | {"c.text": ["a"]}), key="A")
    with pytest.raises(UserError, match="choice 1 is empty: must be text to score"):
        one(field, **(fields | {"c.text": ["a", "", "c"]}), key="A")
    with pytest.raises(
        UserError, match="here line 1: choices 0 and 2 are both 'a': must be differ"
    ):
        one(field, **(fields | {"c.text": ["a", "b", "a"]}), key="A")


def test_references_of_words() -> None:
    task = GenerateTask("{q}", references="a.text")
    found = one(task, q="?", **{"a.text": ["first", "second"]})
    assert (found.target, found.references) == ("first", ("first", "second"))
    with pytest.raises(UserError, match=r"'a\.text' of references is an empty list"):
        one(task, q="?", **{"a.text": []})
    assert one(GenerateTask("{q}", "{q}!"), q="?").references == ("?!",)


def test_several_at_once(tmp_path: Path) -> None:
    folder = str(write_task(tmp_path / "sky", YES_NO))
    assert [each.name for each in find_all([folder, "cb"], {"cb": "x.jsonl"})] == ["sky", "cb"]
    with pytest.raises(UserError, match="task 'cb': given twice"):
        find_all(["cb", "cb"], {})
    with pytest.raises(UserError, match="--task-data boolq: no such task is asked for; known: cb"):
        find_all(["cb"], {"boolq": "x.jsonl"})


def test_a_limit_draws_by_the_seed_and_keeps_the_order(tmp_path: Path) -> None:
    entries = [{"q": str(number), "label": 0} for number in range(50)]
    found = find(str(write_task(tmp_path / "sky", YES_NO, validation=entries)))

    def asked(limit: int, seed: int) -> list[str]:
        prepared = prepare(found, Options(limit=limit, seed=seed))
        return [question.inputs for question, _ in prepared.given]

    drawn = asked(10, 1)
    numbers = [int(each.removeprefix("asked: ")) for each in drawn]
    assert numbers == sorted(set(numbers)) and len(numbers) == 10
    assert drawn == asked(10, 1)
    assert drawn != asked(10, 2)
    assert max(numbers) > 10  # not the first ones
    assert len(asked(99, 0)) == 50
