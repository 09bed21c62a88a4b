"""A task, asked and scored from beginning to end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from turnout.config.errors import check_words, require
from turnout.config.task import Task, TextTask
from turnout.evaluate.library import Found
from turnout.evaluate.likelihood import Tell, quiet
from turnout.evaluate.metrics.measure import Measure
from turnout.evaluate.questions import Question
from turnout.evaluate.scoring import Scored, asked, check_libraries, measures
from turnout.evaluate.shots import Shots, sampled
from turnout.evaluate.subject import Subject


@dataclass(frozen=True)
class Options:
    """How tasks are asked.

    Attributes:
        shots: examples that are shown before each question.
        seed: of the shots, of a limited sample, and of the resampling.
        limit: at most so many questions, drawn by the seed; None asks all.
    """

    split: Literal["train", "validation", "test"] = "validation"
    shots: int = 0
    seed: int = 0
    limit: int | None = None

    def __post_init__(self) -> None:
        check_words(self, "options")
        require(self.shots >= 0, "--shots", self.shots, "at least 0")
        require(self.seed >= 0, "--seed", self.seed, "at least 0")
        require(self.limit is None or self.limit >= 1, "--limit", self.limit, "at least 1")


@dataclass(frozen=True)
class Prepared:
    """The questions of a task, each with the text that leads to its answer."""

    task: Task
    given: tuple[tuple[Question, str], ...]


@dataclass(frozen=True)
class Result:
    """What a subject made of a task.

    Attributes:
        measures: over all examples, the main one first.
        domains: the same over those of each domain, where the task names a field for it.
    """

    task: Task
    scored: tuple[Scored, ...]
    measures: tuple[Measure, ...]
    domains: Mapping[str, tuple[Measure, ...]]

    @property
    def cut(self) -> int:
        """Examples whose context lost its left."""
        return sum(each.cut for each in self.scored)


def prepare(found: Found, options: Options) -> Prepared:
    """Read the examples and choose the shots: the same for every model.

    Raises:
        ConfigError: shots before text alone.
        UserError: examples that cannot be, an empty split, too few shots, or a library of a metric
            that is missing.
    """
    text = found.task.kind == TextTask.kind
    require(not text or not options.shots, "--shots", options.shots, "0 for a task of kind 'text'")
    check_libraries(found.task)
    pool = found.pool() if options.shots else []
    drawn = Shots.drawn(pool, options.shots, options.seed, found.name)
    shots, there = drawn.apart(found.scored(options.split))
    questions = sampled(there, options.limit, options.seed)
    return Prepared(found.task, tuple((each, shots.context(each)) for each in questions))


def evaluate(prepared: Prepared, subject: Subject, tell: Tell = quiet) -> Result:
    """Ask and score.

    Raises:
        UserError: as ``scoring.asked``.
    """
    scored = tuple(asked(prepared.task, subject, prepared.given, tell))
    domains: dict[str, list[Scored]] = {}
    for each in scored:
        if prepared.task.domain:
            domains.setdefault(each.question.domain, []).append(each)
    return Result(
        prepared.task,
        scored,
        measures(prepared.task, scored),
        {name: measures(prepared.task, domains[name]) for name in sorted(domains)},
    )


def examples(result: Result) -> Sequence[dict[str, Any]]:
    """Each example as plain data."""
    found = []
    for each in result.scored:
        question = each.question
        table: dict[str, Any] = {"task": result.task.name, "place": question.place}
        table |= {"inputs": question.inputs, "target": question.target}
        table |= {"prediction": each.prediction} if each.prediction or not each.logs else {}
        table |= {"choices": list(question.choices)} if question.choices else {}
        table |= {"log_likelihoods": list(each.logs)} if each.logs else {}
        table |= {"references": list(question.references)} if not each.logs else {}
        table |= {"domain": question.domain} if result.task.domain else {}
        found.append(table | {"cut": each.cut})
    return found
