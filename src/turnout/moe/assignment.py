"""Which token goes to which expert: the sparse T x E matrix in coordinates.

Axes: T tokens, E experts, K choices a token, N assignments.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from turnout.pytree import pytree


@pytree(static=("num_tokens", "per_token"))
@dataclass(frozen=True)
class Assignment:
    """N entries of the token-expert matrix, before capacity.

    Attributes:
        token: flat token index, 0 .. T - 1.
        expert: expert index, 0 .. E - 1.
        choice: 0 for a token's first choice, 1 for its second.
        weight: combine weight, float32, with gradient; 0 where not live.
        log_probability: logarithm of the router's probability of the pair, float32.
        live: False for padding and declined choices: no slot, no row of the product, no count.
        num_tokens: T.
        per_token: K when the entries are token-major with K of them a token (token choice);
            None when a token may have any number.
    """

    token: Int[Tensor, " N"]
    expert: Int[Tensor, " N"]
    choice: Int[Tensor, " N"]
    weight: Float[Tensor, " N"]
    log_probability: Float[Tensor, " N"]
    live: Bool[Tensor, " N"]
    num_tokens: int
    per_token: int | None

    @staticmethod
    def token_choice(
        expert: Int[Tensor, "T K"],
        weight: Float[Tensor, "T K"],
        log_probability: Float[Tensor, "T K"],
        live: Bool[Tensor, "T K"],
    ) -> "Assignment":
        """Token-major entries from a [T, K] table of choices."""
        tokens, k = expert.shape
        index = torch.arange(tokens * k, device=expert.device)
        return Assignment(
            token=index // k,
            expert=expert.flatten(),
            choice=index % k,
            weight=torch.where(live, weight, 0.0).flatten(),
            log_probability=log_probability.flatten(),
            live=live.flatten(),
            num_tokens=tokens,
            per_token=k,
        )
