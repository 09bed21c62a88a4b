"""Branch-Train-Merge as an ensemble (Li et al., 2208.03306): models of different domains, mixed by
how likely each domain is after what was read so far.

Axes: M models, B rows, S tokens, V vocabulary.
"""

import math
from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from turnout.config.errors import UserError
from turnout.data.batch import Batch
from turnout.models.base import Model
from turnout.models.outputs import ModelOutput


@final
class Ensemble:
    """``p(x_t | x_<t) = sum_d p(d | x_<t) p_d(x_t | x_<t)``, where by Bayes' rule
    ``p(d | x_<t)`` is proportional to ``p(d) prod_s p_d(x_s | x_<s)`` over what was predicted
    before in the same segment of a row.

    Args:
        prior: of each model, above 0; divided by their sum. Equal unless given.

    Raises:
        UserError: no model, other vocabularies, or a prior that is none.
    """

    def __init__(self, models: Sequence[Model], prior: Sequence[float] | None = None) -> None:
        sizes = [model.config.vocab_size for model in models]
        if not models or len(set(sizes)) > 1:
            raise UserError(f"ensemble: takes models of one vocabulary, not {sizes}")
        given = [1.0] * len(models) if prior is None else list(prior)
        if len(given) != len(models) or not all(0 < each < math.inf for each in given):
            raise UserError(f"prior = {given}: must be {len(models)} numbers above 0")
        self.models = tuple(model.eval() for model in models)
        self.log_prior = torch.tensor(given, dtype=torch.float64).log().log_softmax(0)

    @torch.no_grad()
    def log_probabilities(self, batch: Batch) -> Float[Tensor, "B S V"]:
        """Of each next token, float64; for rows of small vocabularies, since all are held."""
        outputs = self._outputs(batch)
        posterior = self._log_posterior(batch, outputs)
        each = torch.stack(
            [out.head.logits(out.hidden).double().log_softmax(-1) for out in outputs]
        )
        return (posterior.unsqueeze(-1) + each).logsumexp(0)

    @torch.no_grad()
    def posterior(self, batch: Batch) -> Float[Tensor, "M B S"]:
        """Of each model when a token is to be predicted, float64."""
        return self._log_posterior(batch, self._outputs(batch)).exp()

    @torch.no_grad()
    def nats(self, batch: Batch) -> Float[Tensor, "N B S"]:
        """Cross-entropy of each target, float64: of every model, of the mixture by the prior, and
        of the mixture by the posterior (N = M + 2)."""
        outputs = self._outputs(batch)
        each = _nats(batch, outputs)
        prior = self.log_prior[:, None, None]
        mixed = [-(prior - each).logsumexp(0), -(self._weights(batch, each) - each).logsumexp(0)]
        return torch.cat([each, torch.stack(mixed)])

    def _outputs(self, batch: Batch) -> list[ModelOutput]:
        return [model(batch, observed=False) for model in self.models]

    def _log_posterior(
        self, batch: Batch, outputs: Sequence[ModelOutput]
    ) -> Float[Tensor, "M B S"]:
        return self._weights(batch, _nats(batch, outputs))

    def _weights(self, batch: Batch, nats: Float[Tensor, "M B S"]) -> Float[Tensor, "M B S"]:
        read = torch.where(batch.target_mask, nats, 0.0)
        before = read.cumsum(-1) - read
        start = _starts(batch.decoder.position)
        since = before - before.take_along_dim(start.expand_as(before), dim=-1)
        return (self.log_prior[:, None, None] - since).log_softmax(0)


def _nats(batch: Batch, outputs: Sequence[ModelOutput]) -> Float[Tensor, "M B S"]:
    return torch.stack([out.head.nats(out.hidden, batch.targets).double() for out in outputs])


def _starts(position: Int[Tensor, "B S"]) -> Int[Tensor, "1 B S"]:
    """Where the segment of each token begins."""
    here = torch.arange(position.shape[1], device=position.device)
    return (here - position).clamp(min=0).unsqueeze(0)
