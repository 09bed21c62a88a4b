"""From the examples of a data set to what a model is asked, by the kind of task."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

from turnout.config.errors import UserError
from turnout.config.task import ChoicesTask, GenerateTask, Task, TextTask
from turnout.evaluate.records import Record
from turnout.evaluate.template import Template


@dataclass(frozen=True)
class Question:
    """One example of a task.

    Attributes:
        inputs: what is read.
        target: the right answer, as a shot shows it; the text itself where it is text alone.
        place: where it was found.
        domain: empty where the task names none.
        choices: the candidates, if there are any, of which ``answer`` is the place of the right
            one.
        references: all right answers.
    """

    inputs: str
    target: str
    place: str
    domain: str = ""
    choices: tuple[str, ...] = ()
    answer: int = 0
    references: tuple[str, ...] = ()


def questions(task: Task, records: Iterable[Record]) -> list[Question]:
    """All examples of ``records``.

    Raises:
        ConfigError: a template that is none.
        UserError: an example that lacks a field or holds something else in it, or whose answer is
            none of its choices, or two of its choices are equal; the message says which.
    """
    return [_question(task, record) for record in records]


@singledispatch
def _question(task: Any, record: Record) -> Question:
    raise TypeError(f"no questions for {type(task).__name__}")


@_question.register
def _(task: ChoicesTask, record: Record) -> Question:
    inputs = Template.of(task.inputs, "inputs").fill(record)
    choices = _choices(task.choices, record)
    answer = _answer(record, task, choices)
    right = choices[answer]
    domain = _domain(task, record)
    return Question(inputs, right, record.place, domain, choices, answer, (right,))


@_question.register
def _(task: GenerateTask, record: Record) -> Question:
    inputs = Template.of(task.inputs, "inputs").fill(record)
    references = record.texts(task.references, "references") if task.references else ()
    made = Template.of(task.targets, "targets").fill(record) if task.targets else ""
    target = made if task.targets else references[0]
    references = references or (target,)
    return Question(inputs, target, record.place, _domain(task, record), references=references)


@_question.register
def _(task: TextTask, record: Record) -> Question:
    inputs = Template.of(task.inputs, "inputs").fill(record)
    text = Template.of(task.targets, "targets").fill(record)
    if not text:
        raise UserError(f"{record.place}: targets is empty: must be text to score")
    return Question(inputs, text, record.place, _domain(task, record), references=(text,))


def _domain(task: Task, record: Record) -> str:
    return record.text(task.domain, "domain") if task.domain else ""


def _choices(wanted: str | tuple[str, ...], record: Record) -> tuple[str, ...]:
    if isinstance(wanted, str):
        found = record.texts(wanted, "choices")
    else:
        found = tuple(Template.of(each, "choices").fill(record) for each in wanted)
    if len(found) < 2:
        raise UserError(f"{record.place}: choices has {len(found)} entry: must be at least two")
    if "" in found:
        raise UserError(f"{record.place}: choice {found.index('')} is empty: must be text to score")
    first = {text: place for place, text in reversed([*enumerate(found)])}
    for place, text in enumerate(found):
        if first[text] != place:
            raise UserError(
                f"{record.place}: choices {first[text]} and {place} are both {text!r:.60}: must be "
                "different"
            )
    return found


def _answer(record: Record, task: ChoicesTask, choices: Sequence[str]) -> int:
    """The place of the right choice: the answer is its name, its place or its text."""
    value = record.value(task.answer, "answer")
    names = _names(task.names, record)
    if names and len(names) != len(choices):
        raise UserError(f"{record.place}: names has {len(names)} entries, choices {len(choices)}")
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not names and whole and 0 <= value < len(choices):
        return int(value)
    known = names or choices
    if (not whole or names) and str(value) in known:
        return known.index(str(value))
    labels = ", ".join(map(repr, known[:8])) + (", .." if len(known) > 8 else "")
    allowed = f"one of {labels}" if names or not whole else f"from 0 to {len(choices) - 1}"
    fix = "; this split hides its labels: score another" if value == -1 else ""
    raise UserError(f"{record.place}: {task.answer} = {value!r:.80}: must be {allowed}{fix}")


def _names(wanted: str | tuple[str, ...], record: Record) -> tuple[str, ...]:
    if not wanted:
        return ()
    return record.texts(wanted, "names") if isinstance(wanted, str) else wanted
