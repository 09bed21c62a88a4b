"""Examples that are shown before the question, with their answers."""

from collections.abc import Sequence
from dataclasses import dataclass

from turnout.config.errors import UserError
from turnout.data.keys import permutation
from turnout.evaluate.form import BETWEEN_SHOTS, DELIMITER
from turnout.evaluate.questions import Question


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
        order = permutation(len(pool), seed).tolist() if pool else []
        return Shots(tuple(pool[index] for index in order), count, task)

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
