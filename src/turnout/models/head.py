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

CHUNK_ELEMENTS = 1 << 23  # logits of a chunk: 32 MiB in float32


@dataclass(frozen=True)
class HeadLoss:
    """Sums over the positions that carry loss.

    Attributes:
        nats: cross-entropy, float32, with gradient.
        z: squared log-sum-exp of the logits, float32, with gradient; zero unless asked for.
        count: number of positions, int64.
    """

    nats: Float[Tensor, ""]
    z: Float[Tensor, ""]
    count: Int[Tensor, ""]


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
        product = onednn.packed_linear if self.packed else linear
        return product(hidden * self.scale, self.weight).float()

    def cross_entropy(
        self,
        hidden: Float[Tensor, "B S D"],
        targets: Int[Tensor, "B S"],
        mask: Bool[Tensor, "B S"],
        *,
        z: bool = False,
    ) -> HeadLoss:
        """Summed cross-entropy of ``targets`` where ``mask``, and the z term if asked for.

        Gradients are exact; the logits of a chunk are computed again in the backward pass.
        """
        rows = (hidden * self.scale).flatten(0, 1)
        nats, squares = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
            rows, self.weight, targets.flatten(), mask.flatten(), z
        )
        return HeadLoss(nats, squares, mask.sum())

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
        for part in _chunks(left.shape[0], self.weight.shape[0]):
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
            for part in _chunks(rows.shape[0], self.weight.shape[0])
        ]
        return torch.cat([rows.new_zeros(0, dtype=torch.float32), *parts]).view_as(targets)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """(sum of ``lse - logit[target]``, sum of ``lse^2``) over the masked rows."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, targets: Tensor, mask: Tensor, z: bool
    ) -> tuple[Tensor, Tensor]:
        cast = weight.to(rows.dtype)
        nats = torch.zeros((), dtype=torch.float32, device=rows.device)
        squares = torch.zeros_like(nats)
        for part in _chunks(rows.shape[0], weight.shape[0]):
            logits = onednn.fastest(rows[part], cast.t()).float()
            lse = logits.logsumexp(-1)
            target = logits.gather(1, targets[part].unsqueeze(1)).squeeze(1)
            nats = nats + torch.where(mask[part], lse - target, 0.0).sum()
            if z:
                squares = squares + torch.where(mask[part], lse.square(), 0.0).sum()
        ctx.save_for_backward(rows, weight, targets, mask)
        ctx.z = z
        return nats, squares

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> tuple[Tensor | None, ...]:
        """d nats / d logits = p - onehot; d lse^2 / d logits = 2 lse p; p the softmax."""
        rows, weight, targets, mask = ctx.saved_tensors
        nats_up, squares_up = upstream
        cast = weight.to(rows.dtype)
        rows_grad = torch.empty_like(rows)
        weight_grad = torch.zeros_like(weight)
        for part in _chunks(rows.shape[0], weight.shape[0]):
            logits = onednn.fastest(rows[part], cast.t()).float()
            lse = logits.logsumexp(-1, keepdim=True)
            factor = nats_up + 2.0 * squares_up * lse if ctx.z else nats_up.expand_as(lse)
            grad = logits.sub_(lse).exp_().mul_(factor)
            grad.scatter_add_(1, targets[part].unsqueeze(1), -nats_up.expand_as(lse))
            grad = grad.masked_fill_(~mask[part].unsqueeze(1), 0.0).to(rows.dtype)
            rows_grad[part] = onednn.fastest(grad, cast)
            weight_grad += onednn.fastest(grad.t(), rows[part])
        return rows_grad, weight_grad, None, None, None


def _chunks(tokens: int, vocabulary: int) -> list[slice]:
    size = max(1, CHUNK_ELEMENTS // vocabulary)
    return [slice(start, min(start + size, tokens)) for start in range(0, tokens, size)]
