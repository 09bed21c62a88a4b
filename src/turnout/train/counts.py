"""What a step or an evaluation is made of, counted before the first forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass

from turnout.data.batch import Batch
from turnout.data.bits import text_bytes
from turnout.objectives import LanguageObjective, StackTotals, Totals


@dataclass(frozen=True)
class Counts:
    """Over all ranks.

    Attributes:
        totals: what divides the losses; ``batches`` are those of one rank.
        tokens: that are not padding, in all stacks.
        bytes: of text that the targets stand for.
    """

    totals: Totals
    tokens: int
    bytes: int

    NUMBERS = 7

    @staticmethod
    def numbers(objective: LanguageObjective, batches: Sequence[Batch]) -> list[float]:
        """What is to be added over ranks, of ``batches``."""
        totals = objective.totals(batches)
        counted = [
            totals.targets,
            *(totals.encoder.tokens, totals.encoder.groups),
            *(totals.decoder.tokens, totals.decoder.groups),
            sum(map(real_tokens, batches)),
            text_bytes(batches),
        ]
        return list(map(float, counted))

    @staticmethod
    def of(numbers: Sequence[float], batches: int) -> "Counts":
        """From the sums of all ranks' ``numbers``, each of which has so many micro-batches."""
        whole = [int(number) for number in numbers]
        totals = Totals(whole[0], StackTotals(*whole[1:3]), StackTotals(*whole[3:5]), batches)
        return Counts(totals, whole[5], whole[6])


def real_tokens(batch: Batch) -> int:
    """Tokens that are not padding, in all stacks."""
    encoder = 0 if batch.encoder is None else int(batch.encoder.mask.sum())
    return int(batch.decoder.mask.sum()) + encoder
