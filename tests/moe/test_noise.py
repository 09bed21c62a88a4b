"""Stateless noise: what it is keyed by, and how it is distributed."""

import numpy as np
import torch

from turnout.data import keys as data_keys
from turnout.moe import RoutingContext
from turnout.moe.hashing import mix, splitmix64
from turnout.moe.noise import Stream, TokenNoise, token_noise


def test_splitmix64_is_the_published_generator():
    # Vigna's splitmix64.c, seed 0: the first output is 0xE220A8397B1DCDAF.
    found = int(splitmix64(torch.tensor(0))) & (2**64 - 1)
    assert found == 0xE220A8397B1DCDAF


def test_mix_agrees_with_the_data_side():
    parts = (3, -5, 2**62)
    assert int(mix(torch.tensor(parts[0]), *parts[1:])) == int(data_keys.mix(*parts))


def test_uniform_covers_the_unit_interval_evenly():
    noise = TokenNoise(mix(torch.arange(20_000), 1))
    draws = noise.uniform(Stream.SELECTION, 4)
    assert draws.min() >= 0 and draws.max() < 1
    counts = torch.histc(draws, bins=10, min=0, max=1)
    # 8,000 a bin; the standard deviation of a bin is sqrt(80000 * .1 * .9) = 85
    assert (counts - 8000).abs().max() < 5 * 85


def test_normal_and_gumbel_have_their_moments():
    noise = TokenNoise(mix(torch.arange(50_000), 2))
    normal, gumbel = noise.normal(Stream.LOGITS, 2), noise.gumbel(Stream.SELECTION, 2)
    assert torch.isfinite(normal).all() and torch.isfinite(gumbel).all()
    # standard error of a mean over 100,000 draws: 0.003
    assert abs(float(normal.mean())) < 0.016
    assert abs(float(normal.std()) - 1) < 0.012
    assert abs(float(gumbel.mean()) - 0.5772) < 0.02  # Euler's constant
    assert abs(float(gumbel.var()) - np.pi**2 / 6) < 0.05


def test_streams_layers_rows_and_positions_never_share_draws():
    context = RoutingContext.build(torch.ones(3, 5, dtype=torch.bool), keys=torch.tensor([1, 2, 3]))
    draws = torch.cat(
        [
            token_noise(context, layer).uniform(stream, 4).flatten()
            for layer in (0, 1)
            for stream in (Stream.INPUT, Stream.SELECTION)
        ]
    )
    assert draws.unique().numel() == draws.numel()


def test_noise_follows_the_token_and_not_the_column():
    keys = torch.tensor([42, 43])
    plain = RoutingContext.build(torch.ones(2, 4, dtype=torch.bool), keys=keys)
    left = torch.tensor([[False, False, True, True, True, True]] * 2)
    padded = RoutingContext.build(left, keys=keys)
    one_row = RoutingContext.build(torch.ones(1, 4, dtype=torch.bool), keys=keys[1:])

    expected = token_noise(plain, 5).uniform(Stream.INPUT, 3).view(2, 4, 3)
    shifted = token_noise(padded, 5).uniform(Stream.INPUT, 3).view(2, 6, 3)[:, 2:]
    alone = token_noise(one_row, 5).uniform(Stream.INPUT, 3).view(1, 4, 3)
    assert torch.equal(shifted, expected)
    assert torch.equal(alone[0], expected[1])
