"""Relative buckets by hand, and what a rotation must and must not change."""

import bisect
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from turnout.config.positions import RelativeBias
from turnout.nn.positions import RelativePositionBias, RotaryAngles, Sinusoids, relative_bucket

# Causal, 32 buckets up to distance 128: 0 to 15 are exact, bucket 16 + j starts at the first
# integer that is at least 16 * 8^(j / 16):
#   16, 18.2, 20.7, 23.6, 26.9, 30.6, 34.9, 39.7, 45.3, 51.5, 58.7, 66.8, 76.1, 86.7, 98.7, 112.4
CAUSAL = [16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113]
# Bidirectional, 16 buckets a side: 0 to 7 are exact, bucket 8 + j starts at the first integer
# that is at least 8 * 16^(j / 8) = 8 * sqrt(2)^j:
#   8, 11.3, 16, 22.6, 32, 45.3, 64, 90.5
BOTH_WAYS = [8, 12, 16, 23, 32, 46, 64, 91]


def bucket(distance: int, *, bidirectional: bool) -> int:
    result = relative_bucket(
        torch.tensor([distance]), bidirectional=bidirectional, num_buckets=32, max_distance=128
    )
    return int(result)


@pytest.mark.parametrize("distance", range(128))
def test_causal_buckets_of_earlier_keys(distance: int) -> None:
    by_hand = distance if distance < 16 else 15 + bisect.bisect_right(CAUSAL, distance)
    assert bucket(-distance, bidirectional=False) == by_hand


@pytest.mark.parametrize("distance", range(128))
def test_causal_bucket_of_later_keys_is_0(distance: int) -> None:
    assert bucket(distance, bidirectional=False) == 0


@pytest.mark.parametrize("distance", range(128))
def test_bidirectional_buckets_on_both_sides(distance: int) -> None:
    by_hand = distance if distance < 8 else 7 + bisect.bisect_right(BOTH_WAYS, distance)
    assert bucket(-distance, bidirectional=True) == by_hand
    # Keys after the query stand 16 buckets higher; distance 0 is not after.
    assert bucket(distance, bidirectional=True) == by_hand + (16 if distance > 0 else 0)


@given(st.integers(min_value=16, max_value=127))
def test_causal_bucket_by_exact_integers(distance: int) -> None:
    # floor(log(n / 16) / log(8) * 16) is the largest j with n^16 >= 16^16 * 8^j.
    j = max(j for j in range(16) if distance**16 >= 16**16 * 8**j)
    assert bucket(-distance, bidirectional=False) == 16 + j


@given(st.integers(min_value=8, max_value=127))
def test_bidirectional_bucket_by_exact_integers(distance: int) -> None:
    # floor(log(n / 8) / log(16) * 8) is the largest j with n^8 >= 8^8 * 16^j.
    j = max(j for j in range(8) if distance**8 >= 8**8 * 16**j)
    assert bucket(-distance, bidirectional=True) == 8 + j


@pytest.mark.parametrize("distance", [128, 129, 1000, 10**9])
def test_far_keys_share_the_last_bucket(distance: int) -> None:
    assert bucket(-distance, bidirectional=False) == 31
    assert bucket(-distance, bidirectional=True) == 15
    assert bucket(distance, bidirectional=True) == 31


def test_bias_of_later_queries_is_a_slice_of_the_whole() -> None:
    bias = RelativePositionBias(RelativeBias(), 3, bidirectional=False)
    bias.init_weights(torch.Generator().manual_seed(0), std=1.0)
    whole = bias(20, 20)
    assert torch.equal(bias(5, 20, start=15), whole[:, :, 15:])


def test_bias_reads_the_table() -> None:
    bias = RelativePositionBias(RelativeBias(), 2, bidirectional=True)
    with torch.no_grad():
        bias.weight.copy_(torch.arange(64.0).view(32, 2))
    # Query 0, key 3: 3 after the query, bucket 16 + 3 = 19, head 1: 19 * 2 + 1 = 39.
    assert bias(1, 4)[0, 1, 0, 3].item() == 39
    # Query 3, key 0: 3 before, bucket 3, head 0: 6.
    assert bias(4, 4)[0, 0, 3, 0].item() == 6


def test_rotation_by_hand() -> None:
    # head_dim 4, theta 100: frequencies 100^0 = 1 and 100^(-1/2) = 0.1; at position 2 the angles
    # are 2 and 0.2. Pairs are (x0, x2) and (x1, x3). (1, 0) turns to (cos, sin).
    rotation = RotaryAngles(100.0, 4).at(torch.tensor([[2]]))
    turned = rotation.apply(torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 1, 1, 4)).flatten()
    expected = torch.tensor([math.cos(2), math.cos(0.2), math.sin(2), math.sin(0.2)])
    torch.testing.assert_close(turned, expected)


@given(st.integers(0, 500), st.integers(0, 500), st.integers(1, 500))
def test_rotated_products_depend_on_distance_alone(query: int, key: int, shift: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 1, 1, 1, 16, generator=generator)

    def product(positions: tuple[int, int]) -> float:
        q, k = (
            RotaryAngles(10_000.0, 16).at(torch.tensor([[p]])).apply(x[i])
            for i, p in enumerate(positions)
        )
        return float((q * k).sum())

    moved = product((query + shift, key + shift))
    assert moved == pytest.approx(product((query, key)), abs=2e-3)


def test_rotation_keeps_the_dtype_and_computes_in_float32() -> None:
    x = torch.randn(1, 2, 3, 8, generator=torch.Generator().manual_seed(0))
    rotation = RotaryAngles(10_000.0, 8).at(torch.tensor([[1000, 2001, 4003]]))
    low = x.bfloat16()
    assert torch.equal(rotation.apply(low), rotation.apply(low.float()).bfloat16())


def test_sinusoids_by_hand() -> None:
    # Width 7: three frequencies, 1, 100^(-1/2) and 100^-1, sines, then cosines, then one zero.
    found = Sinusoids(7, offset=2, theta=100.0).at(torch.tensor([[0, 3]]))
    for place, p in ((0, 2), (1, 5)):
        angles = [p * 1.0, p * 0.1, p * 0.01]
        expected = [math.sin(a) for a in angles] + [math.cos(a) for a in angles] + [0.0]
        torch.testing.assert_close(found[0, place], torch.tensor(expected))
    assert found.dtype == torch.float32
