"""Ordinary dropout: seeded before each forward pass, so that resuming draws what it would have."""

import torch

from turnout.data.keys import mix

_STREAM = 0x64726F70


def seed_dropout(seed: int, step: int, micro_batch: int) -> None:
    """Seed torch's generator from (seed, step, micro-batch)."""
    torch.manual_seed(int(mix(seed, _STREAM, step, micro_batch)))
