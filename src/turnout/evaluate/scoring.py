"""What a model makes of questions, and the measures over it, by the kind of task."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

from turnout.config.errors import UserError
from turnout.config.task import ChoicesTask, GenerateTask, TextTask
from turnout.evaluate.form import DELIMITER, Row
from turnout.evaluate.likelihood import Likelihood, Tell
from turnout.evaluate.metrics import corpus, measure, words
from turnout.evaluate.metrics.calibration import brier, calibration_error, probabilities
from turnout.evaluate.metrics.measure import Measure
from turnout.evaluate.questions import Question
from turnout.evaluate.subject import Subject

WORDS = {"exact_match": words.exact_match, "f1": words.f1, "rouge_l": words.rouge_l}
CORPUS = {"bleu": corpus.bleu, "chrf": corpus.chrf, "pearson": measure.pearson}


@dataclass(frozen=True)
class Scored:
    """A question with what the model made of it.

    Attributes:
        prediction: the likeliest choice, or what was written; empty for text.
        logs: log-likelihoods, nats: of each choice, or of the text.
        tokens: of the text, its end included where the model was trained on one.
        cut: whether its context lost something.
    """

    question: Question
    prediction: str = ""
    logs: tuple[float, ...] = ()
    tokens: int = 0
    cut: bool = False


@singledispatch
def asked(
    task: Any, subject: Subject, given: Sequence[tuple[Question, str]], tell: Tell
) -> list[Scored]:
    """Ask ``subject`` each question in its context.

    Raises:
        UserError: an answer longer than the model's rows, or a log-likelihood that is not finite;
            the message says of which example.
    """
    raise TypeError(f"no scores for {type(task).__name__}")


@singledispatch
def check_libraries(task: Any) -> None:
    """Refuse, before anything is asked, metrics whose library is missing; most need none.

    Raises:
        UserError: it is not installed.
    """


@check_libraries.register
def _(task: GenerateTask) -> None:
    corpus.check(task.metrics)


@singledispatch
def measures(task: Any, found: Sequence[Scored]) -> tuple[Measure, ...]:
    """The measures over what ``asked`` found, the main one first."""
    raise TypeError(f"no measures for {type(task).__name__}")


@asked.register
def _(
    task: ChoicesTask, subject: Subject, given: Sequence[tuple[Question, str]], tell: Tell
) -> list[Scored]:
    groups = [
        [_row(subject, question, context, DELIMITER + choice) for choice in question.choices]
        for question, context in given
    ]
    found = iter(subject.likelihoods([row for group in groups for row in group], tell))
    scored = []
    for (question, _), group in zip(given, groups, strict=True):
        logs = tuple(_finite(next(found), question) for _ in group)
        likeliest = question.choices[logs.index(max(logs))]
        scored.append(Scored(question, likeliest, logs, cut=any(row.cut for row in group)))
    return scored


@asked.register
def _(
    task: GenerateTask, subject: Subject, given: Sequence[tuple[Question, str]], tell: Tell
) -> list[Scored]:
    rows = [subject.form.prompt(context, task.max_tokens) for _, context in given]
    written = subject.answers(rows, task.max_tokens, task.stop or None, tell)
    return [
        Scored(question, text.strip(), cut=row.cut)
        for (question, _), row, text in zip(given, rows, written, strict=True)
    ]


@asked.register
def _(
    task: TextTask, subject: Subject, given: Sequence[tuple[Question, str]], tell: Tell
) -> list[Scored]:
    groups = [subject.form.windows(context, question.target) for question, context in given]
    found = iter(subject.likelihoods([row for group in groups for row in group], tell))
    return [
        Scored(
            question,
            logs=(math.fsum(_finite(next(found), question) for _ in group),),
            tokens=sum(len(row.answer) for row in group),
            cut=group[0].cut,
        )
        for (question, _), group in zip(given, groups, strict=True)
    ]


@measures.register
def _(task: ChoicesTask, found: Sequence[Scored]) -> tuple[Measure, ...]:
    answers = [each.question.answer for each in found]
    sizes = [[len(choice.encode()) for choice in each.question.choices] for each in found]
    said = [each.logs.index(max(each.logs)) for each in found]
    by_byte = [_likeliest_by_byte(each.logs, size) for each, size in zip(found, sizes, strict=True)]
    chance = math.fsum(1 / len(each.logs) for each in found) / len(found)
    spread = [probabilities(each.logs) for each in found]
    nats = [-each.logs[right] for each, right in zip(found, answers, strict=True)]
    right = [one == other for one, other in zip(said, answers, strict=True)]
    confusion = {"matthews": measure.matthews, "f1": measure.binary_f1}
    return (
        measure.right_or_wrong("accuracy", right, chance),
        measure.right_or_wrong(
            "accuracy_per_byte",
            [one == other for one, other in zip(by_byte, answers, strict=True)],
            chance,
        ),
        *(confusion[name](answers, said) for name in task.metrics),
        measure.per_byte(
            "bits_per_answer_byte", nats, [s[r] for s, r in zip(sizes, answers, strict=True)]
        ),
        calibration_error([float(each.max()) for each in spread], right),
        brier([*zip(spread, answers, strict=True)]),
    )


@measures.register
def _(task: GenerateTask, found: Sequence[Scored]) -> tuple[Measure, ...]:
    answers = [each.prediction for each in found]
    references = [each.question.references for each in found]
    made = []
    for name in task.metrics:
        if name in CORPUS:
            made.append(CORPUS[name](answers, references))
            continue
        values = [WORDS[name](*pair) for pair in zip(answers, references, strict=True)]
        made.append(measure.mean(name, values, binary=name == "exact_match"))
    return tuple(made)


@measures.register
def _(task: TextTask, found: Sequence[Scored]) -> tuple[Measure, ...]:
    nats = [-each.logs[0] for each in found]
    sizes = [len(each.question.target.encode()) for each in found]
    return (
        measure.per_byte("bits_per_byte", nats, sizes),
        measure.perplexity(nats, [each.tokens for each in found]),
    )


def _likeliest_by_byte(logs: Sequence[float], sizes: Sequence[int]) -> int:
    each = [log / size for log, size in zip(logs, sizes, strict=True)]
    return each.index(max(each))


def _row(subject: Subject, question: Question, context: str, continuation: str) -> Row:
    try:
        return subject.form.row(context, continuation)
    except UserError as error:
        raise UserError(f"{question.place}: {error}") from None


def _finite(found: Likelihood, question: Question) -> float:
    if not math.isfinite(found.total):
        raise UserError(
            f"{question.place}: the model's log-likelihood is {found.total}: it has diverged, or "
            "its dtype is too narrow; evaluate an earlier step"
        )
    return found.total
