"""Examples that are shown before the question, with their answers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from turnout.config.errors import UserError
from turnout.data.keys import permutation
from turnout.evaluate.form import BETWEEN_SHOTS, DELIMITER
from turnout.evaluate.questions import Question

SAMPLE, SHOTS = 1, 2  # streams of the seed: what is shown says nothing of what is scored


def sampled(questions: Sequence[Question], limit: int | None, seed: int) -> list[Question]:
    """All questions, or ``limit`` of them, drawn by ``seed``, in their order."""
    if limit is None or limit >= len(questions):
        return [*questions]
    drawn = permutation(len(questions), seed, SAMPLE)[:limit].tolist()
    return [questions[index] for index in sorted(drawn)]


@dataclass(frozen=True)
class Shots:
    """``count`` examples of ``pool``, in an order drawn by ``seed``: the same for every question,
    but that a question is never shown its own inputs."""

    pool: tuple[Question, ...]
    count: int
    task: str

    @staticmethod
    def drawn(pool: Sequence[Question], count: int, seed: int, task: str) -> "Shots":
        """In the order that ``seed`` draws."""
        order = permutation(len(pool), seed, SHOTS).tolist() if pool else []
        return Shots(tuple(pool[index] for index in order), count, task)

    def apart(self, questions: Sequence[Question]) -> tuple["Shots", list[Question]]:
        """The shots, and what is scored beside them: where both are of one file, those that are
        shown are not scored, and no others are shown.

        Raises:
            UserError: all are shown.
        """
        places = {each.place for each in questions}
        if not any(shot.place in places for shot in self.pool):
            return self, [*questions]
        shown = self.pool[: self.count]
        taken = {shot.inputs for shot in shown}
        left = [each for each in questions if each.inputs not in taken]
        if not left:
            raise UserError(
                f"--shots {self.count}: task {self.task!r} has {len(questions)} examples, from "
                "which the shots come too, and none is left to score; ask for fewer"
            )
        return replace(self, pool=shown), left

    def of(self, question: Question) -> list[Question]:
        """What is shown before ``question``.

        Raises:
            UserError: there are not so many others.
        """
        others = (shot for shot in self.pool if shot.inputs != question.inputs)
        found = [shot for shot, _ in zip(others, range(self.count), strict=False)]
        if len(found) < self.count:
            raise UserError(
                f"--shots {self.count}: task {self.task!r} has {len(found)} to show beside "
                f"{question.place}; ask for fewer"
            )
        return found

    def context(self, question: Question) -> str:
        """The shots, and behind them the question."""
        shown = (f"{s.inputs}{DELIMITER}{s.target}{BETWEEN_SHOTS}" for s in self.of(question))
        return "".join(shown) + question.inputs
