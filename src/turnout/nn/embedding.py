"""Token embeddings. Axes: V vocabulary, D width."""

from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


@final
class Embedding(nn.Module):
    """Looks ids up in a float32 table [V, D]; the result has the compute dtype."""

    def __init__(self, vocab_size: int, d_model: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.weight = nn.Parameter(torch.empty(vocab_size, d_model))

    def forward(self, ids: Int[Tensor, "B S"]) -> Float[Tensor, "B S D"]:
        return F.embedding(ids, self.weight).to(self.dtype)
