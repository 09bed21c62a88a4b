"""A sparse layer where a transformer block has its feed-forward network, in a plain loop.

The toy task is a Caesar cipher: a row begins with one of 4 keys, and each letter behind it must
be replaced by the one that many places on. Axes: B rows, S tokens, D width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from turnout import (
    FeedForwardConfig,
    LayerStats,
    MoEConfig,
    RoutingContext,
    build_layer,
    router_losses,
)

LETTERS, KEYS, LENGTH = 16, 4, 12


class SparseBlock(nn.Module):
    def __init__(self, d_model: int, heads: int, num_experts: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attention = nn.MultiheadAttention(d_model, heads, batch_first=True)
        moe = MoEConfig(num_experts, train_capacity_factor=None)  # drops no token
        self.moe = build_layer(moe, d_model=d_model, feed_forward=FeedForwardConfig(4 * d_model))

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, LayerStats]:
        normed = self.norm1(x)
        x = x + self.attention(normed, normed, normed, key_padding_mask=~mask)[0]
        y, stats, _ = self.moe(self.norm2(x), RoutingContext.of(mask))
        return x + y, stats


class Decipher(nn.Module):
    """Embedding, one sparse block, a linear head."""

    def __init__(self, d_model: int = 32, num_experts: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(LETTERS + KEYS, d_model)
        self.block = SparseBlock(d_model, heads=2, num_experts=num_experts)
        self.head = nn.Linear(d_model, LETTERS)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, LayerStats]:
        """Ids [B S] to logits [B S LETTERS] and the sparse layer's sums."""
        hidden, stats = self.block(self.embedding(ids), mask)
        return self.head(hidden), stats


def make_batch(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and targets, each [B S]; rows have a key, 4 to 11 letters, and padding."""
    key = torch.randint(KEYS, (rows, 1), generator=generator)
    letters = torch.randint(LETTERS, (rows, LENGTH - 1), generator=generator)
    length = torch.randint(5, LENGTH + 1, (rows, 1), generator=generator)
    mask = torch.arange(LENGTH) < length
    ids = torch.cat([key + LETTERS, letters], dim=1)
    targets = torch.cat([key, (letters + key) % LETTERS], dim=1)
    return ids * mask, mask, targets


def train(steps: int = 300, rows: int = 64, seed: int = 0) -> list[float]:
    """The cross-entropy of every step, in nats a token."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = Decipher()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        ids, mask, targets = make_batch(rows, generator)
        logits, stats = model(ids, mask)
        loss = F.cross_entropy(logits[mask], targets[mask])
        optimizer.zero_grad()
        (loss + router_losses(stats)).backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def main() -> None:
    """Trains and prints how the loss fell."""
    losses = train()
    for step in range(0, len(losses), 50):
        print(f"step {step:3d}  {losses[step]:.3f} nats a token")
    print(f"step {len(losses) - 1:3d}  {losses[-1]:.3f}; guessing is ln 16 = 2.773")


if __name__ == "__main__":
    main()
