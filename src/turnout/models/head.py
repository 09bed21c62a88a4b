"""The output head and its loss, which never holds the logits of all tokens at once.

Axes: T tokens, C tokens of a chunk, D width, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from turnout.nn import onednn
from turnout.nn.linear import linear
from turnout.nn.packed import packed_linear

CHUNK_ELEMENTS = 1 << 23  # logits of a chunk: 32 MiB in float32


@dataclass(frozen=True)
class HeadLoss:
    """Sums over the positions that carry loss, float32.

    Attributes:
        total: cross-entropy and the weighted z term, with gradient, which can be taken once.
        nats: cross-entropy, without gradient.
        z: squared log-sum-exp of the logits, without gradient.
        count: number of positions, int64.
    """

    total: Float[Tensor, ""]
    nats: Float[Tensor, ""]
    z: Float[Tensor, ""]
    count: Int[Tensor, ""]

    def mean(self, other: "HeadLoss") -> "HeadLoss":
        """Of two passes over the same positions."""
        return HeadLoss(
            (self.total + other.total) / 2,
            (self.nats + other.nats) / 2,
            (self.z + other.z) / 2,
            self.count,
        )


@dataclass(frozen=True)
class Head:
    """A view of the output weights; ``scale`` multiplies the hidden states before them.

    T5 1.0 shares the weights with the embedding and scales by d_model^-0.5. The product has the
    dtype of the hidden states, everything after it is float32. A weight that is
    ``packed`` (``models.prepared``) makes logits alone.
    """

    weight: Float[Tensor, "V D"]
    scale: float = 1.0
    packed: bool = False

    def logits(self, hidden: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        """Float32 logits; for a few positions, since the vocabulary is wide."""
        product = packed_linear if self.packed else linear
        return product(hidden * self.scale, self.weight).float()

    def cross_entropy(
        self,
        hidden: Float[Tensor, "B S D"],
        targets: Int[Tensor, "B S"],
        mask: Bool[Tensor, "B S"],
        *,
        z_weight: float = 0.0,
    ) -> HeadLoss:
        """Summed cross-entropy of ``targets`` where ``mask``, with ``z_weight`` times the z term.

        Gradients are exact, and made beside the logits of each chunk, which are gone then.
        """
        rows = (hidden * self.scale).flatten(0, 1)
        wanted = torch.is_grad_enabled()
        total, nats, z = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
            rows, self.weight, targets.flatten(), mask.flatten(), z_weight, wanted
        )
        return HeadLoss(total, nats, z, mask.sum())

    def divergence(
        self,
        one: Float[Tensor, "B S D"],
        other: Float[Tensor, "B S D"],
        mask: Bool[Tensor, "B S"],
    ) -> Float[Tensor, ""]:
        """Symmetric Kullback-Leibler divergence of two predictions, summed where ``mask``.

        ``1/2 sum_v (p_v - q_v) (log p_v - log q_v)``, float32, with gradient to both; the logits
        of a chunk are computed again in the backward pass.
        """
        left, right, wanted = one.flatten(0, 1), other.flatten(0, 1), mask.flatten()
        total = torch.zeros((), dtype=torch.float32, device=one.device)
        for part in chunks(left.shape[0], self.weight.shape[0]):
            apart = checkpoint(self._apart, left[part], right[part], use_reentrant=False)
            total = total + torch.where(wanted[part], apart, 0.0).sum()
        return total

    def _apart(self, one: Float[Tensor, "C D"], other: Float[Tensor, "C D"]) -> Float[Tensor, " C"]:
        log_p, log_q = (self.logits(rows).log_softmax(-1) for rows in (one, other))
        return 0.5 * ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1)

    @torch.no_grad()
    def nats(
        self, hidden: Float[Tensor, "B S D"], targets: Int[Tensor, "B S"]
    ) -> Float[Tensor, "B S"]:
        """Cross-entropy of each target, float32, without gradient."""
        rows, wanted = hidden.flatten(0, 1), targets.flatten()
        parts = [
            F.cross_entropy(self.logits(rows[part]), wanted[part], reduction="none")
            for part in chunks(rows.shape[0], self.weight.shape[0])
        ]
        return torch.cat([rows.new_zeros(0, dtype=torch.float32), *parts]).view_as(targets)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Sums of ``lse - logit[target] + z_weight lse^2`` over the masked rows, of its first two terms
    and of ``lse^2``; the gradient of the first of these three is that of the whole."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        targets: Tensor,
        mask: Tensor,
        z_weight: float,
        wanted: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        cast = weight.to(rows.dtype)
        nats = torch.zeros((), dtype=torch.float32, device=rows.device)
        squares = torch.zeros_like(nats)
        of_rows, of_weight = (wanted and needed for needed in ctx.needs_input_grad[:2])
        rows_grad = torch.empty_like(rows) if of_rows else None
        weight_grad = torch.zeros_like(weight) if of_weight else None
        for part in chunks(rows.shape[0], weight.shape[0]):
            chunk = _Chunk(rows[part], targets[part], mask[part])
            sums, grad = chunk.cross_entropy(cast, z_weight, of_rows or of_weight)
            nats, squares = nats + sums[0], squares + sums[1]
            if rows_grad is not None:
                rows_grad[part] = onednn.fastest(grad, cast)
            if weight_grad is not None:
                weight_grad += onednn.fastest(grad.t(), chunk.rows)
        ctx.save_for_backward(rows_grad, weight_grad)
        ctx.mark_non_differentiable(nats, squares)
        return nats + z_weight * squares if z_weight else nats.clone(), nats, squares

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> tuple[Tensor | None, ...]:
        """In place: autograd notices where a second pass would take what the first has scaled."""
        of_rows, of_weight = (
            None if grad is None else grad.mul_(upstream[0]) for grad in ctx.saved_tensors
        )
        return of_rows, of_weight, None, None, None, None


@dataclass(frozen=True)
class _Chunk:
    """Some rows; what is as wide as the vocabulary lives no longer than a call."""

    rows: Tensor
    targets: Tensor
    mask: Tensor

    def cross_entropy(
        self, weight: Tensor, z_weight: float, wanted: bool
    ) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """The sums, and the gradient of the whole with respect to the logits where ``wanted``:
        ``d nats / d logits = p - onehot``, ``d lse^2 / d logits = 2 lse p``; p the softmax."""
        logits = onednn.fastest(self.rows, weight.t()).float()
        lse = logits.logsumexp(-1, keepdim=True)
        target = logits.gather(1, self.targets.unsqueeze(1))
        kept = self.mask.unsqueeze(1)
        nats = torch.where(kept, lse - target, 0.0).sum()
        squares = torch.where(kept, lse.square(), 0.0).sum()
        if not wanted:
            return (nats, squares), lse
        grad = logits.sub_(lse).exp_()
        if z_weight:
            grad.mul_(1.0 + 2.0 * z_weight * lse)
        grad.scatter_add_(1, self.targets.unsqueeze(1), torch.full_like(lse, -1.0))
        return (nats, squares), grad.masked_fill_(~kept, 0.0).to(self.rows.dtype)


def chunks(tokens: int, vocabulary: int) -> list[slice]:
    """Tokens whose logits are in memory at a time. Of about the same size: a size of its own would
    be a kernel of its own."""
    most = max(1, CHUNK_ELEMENTS // vocabulary)
    size = -(-tokens // max(1, -(-tokens // most)))
    return [slice(start, min(start + size, tokens)) for start in range(0, tokens, max(1, size))]
