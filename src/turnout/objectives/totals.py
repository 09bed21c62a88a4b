"""What divides each loss term: integers counted from all batches of a step before any forward."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from turnout.config.moe import MoEConfig
from turnout.data.batch import Batch, Stream
from turnout.models.contexts import Contexts


@dataclass(frozen=True)
class StackTotals:
    """Real tokens of one stack, and its routing groups that hold any."""

    tokens: int = 0
    groups: int = 0

    def __add__(self, other: "StackTotals") -> "StackTotals":
        return StackTotals(self.tokens + other.tokens, self.groups + other.groups)


@dataclass(frozen=True)
class Totals:
    """Counts over all micro-batches and ranks of a step; they add.

    Attributes:
        targets: targets that carry loss; divides the language loss and the head's z-loss.
        encoder, decoder: tokens (divide the router z-loss) and groups (divide losses of scope
            ``group``) of each stack.
        batches: how many micro-batches were counted.
    """

    targets: int = 0
    encoder: StackTotals = StackTotals()
    decoder: StackTotals = StackTotals()
    batches: int = 0

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(
            self.targets + other.targets,
            self.encoder + other.encoder,
            self.decoder + other.decoder,
            self.batches + other.batches,
        )

    def stack(self, name: str) -> StackTotals:
        """The totals of the stack ``encoder`` or ``decoder``."""
        return {"encoder": self.encoder, "decoder": self.decoder}[name]

    @staticmethod
    def count(batches: Sequence[Batch], moe: MoEConfig | None) -> "Totals":
        """Totals of ``batches`` for a model whose sparse layers are ``moe``."""
        return sum((_count_batch(batch, moe) for batch in batches), Totals())


def _count_batch(batch: Batch, moe: MoEConfig | None) -> Totals:
    return Totals(
        targets=int(batch.target_mask.sum()),
        encoder=_count_stack(batch.encoder, batch, moe),
        decoder=_count_stack(batch.decoder, batch, moe),
        batches=1,
    )


def _count_stack(stream: Stream | None, batch: Batch, moe: MoEConfig | None) -> StackTotals:
    if stream is None:
        return StackTotals()
    context = Contexts.of(moe).context(stream, batch)
    tokens = torch.zeros(context.num_groups, dtype=torch.int64, device=stream.mask.device)
    tokens = tokens.scatter_add(0, context.group.flatten(), stream.mask.flatten().long())
    return StackTotals(int(tokens.sum()), int((tokens > 0).sum()))
