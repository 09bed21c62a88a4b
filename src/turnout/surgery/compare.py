"""Two models on the same rows: how far their predictions are apart.

Axes: B rows, S tokens, T tokens, V vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from turnout.config.errors import UserError
from turnout.models.base import Model
from turnout.surgery.rows import Rows, known, relabelled

CHUNK = 1 << 22  # logits that are held of each model
BOUND, MOST_BOUND = 1e-6, 1e-5


@dataclass(frozen=True)
class Comparison:
    """What was measured, on ``tokens`` real tokens of the decoder.

    Attributes:
        dtype: that both models computed in; routers and logits are float32 in any.
        bound: of ``logits``, for a function that was to stay.
        logits: the largest difference of a logit over the largest logit of the old model.
        divergence: mean KL divergence of the new prediction from the old one, in nats.
        before, after: nats a target; None for random tokens, which predict nothing.
        bits_before, bits_after: bits per byte of text, likewise.
    """

    rows: str
    tokens: int
    dtype: str
    logits: float
    divergence: float
    before: float | None
    after: float | None
    bits_before: float | None
    bits_after: float | None
    bound: float = BOUND

    @property
    def preserved(self) -> bool:
        """Whether the function is the same, as far as its rounding lets anybody tell."""
        return self.logits <= self.bound

    def within_rounding(self, rounding: "Comparison") -> "Comparison":
        """The same with a bound that allows for what float32 routers round, as much as float32
        throughout does to the old model: ``rounding`` compares it with itself in float64. Never
        above ``MOST_BOUND``, since a choice between experts that turns over is no rounding."""
        return replace(self, bound=min(max(BOUND, rounding.logits), MOST_BOUND))


@dataclass
class _Sums:
    largest: float = 0.0
    apart: float = 0.0
    divergence: float = 0.0
    tokens: int = 0
    before: float = 0.0
    after: float = 0.0
    targets: int = 0


@torch.no_grad()
def compare(old: Model, new: Model, rows: Rows, labels: Sequence[int] | None = None) -> Comparison:
    """Both models, in evaluation mode, on all rows.

    Args:
        labels: by label of a row, which the new model reads, that of the old one; rows of labels
            that the old one does not know are left out.

    Raises:
        UserError: a logit of either is not finite.
    """
    sums = _Sums()
    for whole in rows.batches:
        batch = whole if labels is None else known(whole, len(labels))
        if batch is None:
            continue
        left = old(relabelled(batch, labels), observed=False)
        right = new(batch, observed=False)
        real = batch.decoder.mask.flatten()
        states = [output.hidden.flatten(0, 1)[real] for output in (left, right)]
        targets = batch.targets.flatten()[real]
        wanted = batch.target_mask.flatten()[real]
        size = max(CHUNK // old.config.vocab_size, 1)
        for part in (slice(at, at + size) for at in range(0, len(targets), size)):
            a, b = left.head.logits(states[0][part]), right.head.logits(states[1][part])
            _check_finite("old", a, rows)
            _check_finite("new", b, rows)
            _add(sums, a.double(), b.double(), targets[part], wanted[part])
    return _comparison(sums, rows, str(old.dtype).removeprefix("torch."))


def _check_finite(which: str, logits: Tensor, rows: Rows) -> None:
    # A difference from NaN is larger than nothing, and would pass for none.
    if not bool(torch.isfinite(logits).all()):
        raise UserError(
            f"the {which} model has a logit that is not finite on {rows.what}: nothing can be said "
            "of its function; begin with a checkpoint that is sound"
        )


def _add(
    sums: _Sums, a: Float[Tensor, "T V"], b: Float[Tensor, "T V"], targets: Tensor, wanted: Tensor
) -> None:
    p, q = a.log_softmax(-1), b.log_softmax(-1)
    sums.largest = max(sums.largest, float(a.abs().max()))
    sums.apart = max(sums.apart, float((a - b).abs().max()))
    sums.divergence += float((p.exp() * (p - q)).sum())
    sums.tokens += len(targets)
    sums.before -= float(p.gather(1, targets[:, None])[wanted].sum())
    sums.after -= float(q.gather(1, targets[:, None])[wanted].sum())
    sums.targets += int(wanted.sum())


def _comparison(sums: _Sums, rows: Rows, dtype: str) -> Comparison:
    nats = [
        each / max(sums.targets, 1) if rows.text else None for each in (sums.before, sums.after)
    ]
    bits = [
        each / math.log(2) / rows.text if rows.text else None for each in (sums.before, sums.after)
    ]
    return Comparison(
        rows=f"{rows.count} {rows.what}",
        tokens=sums.tokens,
        dtype=dtype,
        logits=sums.apart / sums.largest if sums.largest else sums.apart,
        divergence=max(sums.divergence / max(sums.tokens, 1), 0.0),
        before=nats[0],
        after=nats[1],
        bits_before=bits[0],
        bits_after=bits[1],
    )
