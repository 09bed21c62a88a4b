"""The tasks that come along, over an example of each in the fields of the hub."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.evaluate.subjects import write_lines
from turnout.config.errors import UserError
from turnout.evaluate.library import built_in, find

ARC = {"question": "q", "answerKey": "B", "choices": {"text": ["a", "b"], "label": ["A", "B"]}}

# An example of every task that comes along, in the fields of the hub, and what it reads.
HUB: dict[str, tuple[dict[str, Any], str, str]] = {
    "boolq": (
        {"question": "q", "passage": "p", "label": 1},
        "boolq passage: p question: q",
        "True",
    ),
    "cb": (
        {"premise": "p", "hypothesis": "h", "label": 1},
        "cb hypothesis: h premise: p",
        "contradiction",
    ),
    "copa": (
        {"premise": "p", "choice1": "a", "choice2": "b", "question": "cause", "label": 0},
        "copa choice1: a choice2: b premise: p question: cause",
        "choice1",
    ),
    "multirc": (
        {"paragraph": "p", "question": "q", "answer": "a", "idx": {"answer": 1}, "label": 0},
        "multirc question: q answer: a paragraph: p",
        "False",
    ),
    "record": (
        {"passage": "p", "query": "q", "entities": ["A", "B"], "answers": ["B", "A"]},
        "record query: q entities: A, B passage: p",
        "B",
    ),
    "rte": (
        {"premise": "p", "hypothesis": "h", "label": 1},
        "rte hypothesis: h premise: p",
        "not_entailment",
    ),
    "wic": (
        {"word": "w", "sentence1": "a", "sentence2": "b", "label": 1},
        "wic sentence1: a sentence2: b word: w",
        "True",
    ),
    "wsc": (
        {"text": "t", "span1_text": "n", "span2_text": "it", "label": 1},
        "wsc text: t pronoun: it noun: n",
        "True",
    ),
    "glue_cola": ({"sentence": "s", "label": 1}, "cola sentence: s", "acceptable"),
    "glue_sst2": ({"sentence": "s", "label": 0}, "sst2 sentence: s", "negative"),
    "glue_mrpc": (
        {"sentence1": "a", "sentence2": "b", "label": 1},
        "mrpc sentence1: a sentence2: b",
        "equivalent",
    ),
    "glue_qqp": (
        {"question1": "a", "question2": "b", "label": 0},
        "qqp question1: a question2: b",
        "not_duplicate",
    ),
    "glue_stsb": (
        {"sentence1": "a", "sentence2": "b", "label": 3.799999952316284},
        "stsb sentence1: a sentence2: b",
        "3.8",
    ),
    "glue_mnli": (
        {"premise": "p", "hypothesis": "h", "label": 2},
        "mnli hypothesis: h premise: p",
        "contradiction",
    ),
    "glue_mnli_mismatched": (
        {"premise": "p", "hypothesis": "h", "label": 1},
        "mnli hypothesis: h premise: p",
        "neutral",
    ),
    "glue_qnli": (
        {"question": "q", "sentence": "s", "label": 0},
        "qnli question: q sentence: s",
        "entailment",
    ),
    "glue_rte": (
        {"sentence1": "a", "sentence2": "b", "label": 0},
        "rte sentence1: a sentence2: b",
        "entailment",
    ),
    "glue_wnli": (
        {"sentence1": "a", "sentence2": "b", "label": 1},
        "wnli sentence1: a sentence2: b",
        "entailment",
    ),
    "squad": (
        {"question": "q", "context": "c", "answers": {"text": ["a", "b"], "answer_start": [1, 2]}},
        "question: q context: c",
        "a",
    ),
    "xsum": ({"document": "d", "summary": "s"}, "summarize: d", "s"),
    "cnn_dailymail": ({"article": "a", "highlights": "h"}, "summarize: a", "h"),
    "winogrande": (
        {"sentence": "s _", "option1": "a", "option2": "b", "answer": "2"},
        "winogrande sentence: s _ option1: a option2: b",
        "b",
    ),
    **{
        f"anli_r{number}": (
            {"premise": "p", "hypothesis": "h", "label": 1},
            "anli hypothesis: h premise: p",
            "neutral",
        )
        for number in (1, 2, 3)
    },
    **{
        name: (
            {
                "question": "q",
                "choices": {"text": ["a", "b"], "label": ["A", "B"]},
                "answerKey": "B",
            },
            "arc question: q",
            "b",
        )
        for name in ("arc_easy", "arc_challenge")
    },
    "trivia_qa": (
        {"question": "q", "answer": {"value": "v", "aliases": ["a", "v"]}},
        "trivia question: q",
        "v",
    ),
    "nq_open": ({"question": "q", "answer": ["a", "b"]}, "nq question: q", "a"),
    "web_questions": ({"question": "q", "answers": ["a", "b"]}, "wq question: q", "a"),
}


def test_every_task_that_comes_along_is_here() -> None:
    tasks = built_in()
    assert tasks.keys() == HUB.keys()
    assert all(task.description and task.source.startswith("hf:") for task in tasks.values())


@pytest.mark.parametrize("name", HUB)
def test_built_in_tasks_read_the_fields_of_the_hub(name: str, tmp_path: Path) -> None:
    example, inputs, target = HUB[name]
    split = built_in()[name].splits.validation
    write_lines(tmp_path / f"{split}.jsonl", [example])
    (found,) = find(name, {name: str(tmp_path)}).scored("validation")
    assert (found.inputs, found.target) == (inputs, target)
    assert found.target in found.references or name == "trivia_qa"


def test_the_hub_is_asked_for_the_split(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    library = ModuleType("datasets")

    def load_dataset(*arguments: Any, **named: Any) -> Any:
        asked.append((arguments, named))
        return iter([HUB["cb"][0]])

    library.__version__ = "5.2.0"  # type: ignore[attr-defined]
    library.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", library)
    (found,) = find("cb").scored("validation")
    assert found.place == "hf:super_glue:validation row 0"
    assert asked == [(("super_glue", "cb"), {"split": "validation", "streaming": True})]
    find("anli_r2").pool()
    assert asked[1] == (("anli", None), {"split": "train_r2", "streaming": True})
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"task 'cb': hf: needs the library datasets; pip install"):
        find("cb").scored("validation")
    for source in ("hf:", "hf:a:b:c", "hf:a:"):
        with pytest.raises(UserError, match="must be hf:NAME or hf:NAME:CONFIG"):
            find("cb", {"cb": source})


def test_an_answer_of_several_lines_ends_behind_them() -> None:
    """Highlights stand on lines of their own; at the first one's end a model of text would stop."""
    assert built_in()["cnn_dailymail"].stop == ("\n\n",)
