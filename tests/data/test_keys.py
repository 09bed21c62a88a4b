import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.data.keys import mix, permutation, splitmix64

WORD = 1 << 64
integers = st.integers(-(1 << 63), (1 << 63) - 1)


def reference(x: int) -> int:
    """splitmix64 on Python's unbounded integers, straight from its definition."""
    x = (x + 0x9E3779B97F4A7C15) % WORD
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % WORD
    return x ^ (x >> 31)


def signed(x: int) -> int:
    return x - WORD if x >= 1 << 63 else x


# The first outputs of the published generator: its state counts up by the golden constant, so the
# first output for state s is splitmix64(s).
@pytest.mark.parametrize(
    ("state", "first"), [(0, 0xE220A8397B1DCDAF), (1234567, 6457827717110365317)]
)
def test_published_first_outputs(state: int, first: int) -> None:
    assert int(splitmix64(np.array([state], dtype=np.uint64))[0]) == first
    assert int(mix(state)) == signed(first)


@given(integers, integers, integers)
def test_mix_folds_from_the_left(a: int, b: int, c: int) -> None:
    folded = reference(reference(reference(a % WORD) ^ (b % WORD)) ^ (c % WORD))
    assert int(mix(a, b, c)) == signed(folded)


def test_arrays_broadcast_and_agree_with_numbers() -> None:
    rows = np.arange(-3, 4)
    table = mix(7, rows[:, None], rows)
    assert table.shape == (7, 7) and table.dtype == np.int64
    assert table[1, 5] == int(mix(7, -2, 2))
    assert int(mix(np.array(3), 4)) == int(mix(3, 4))


def test_order_of_the_parts_matters() -> None:
    assert int(mix(1, 2)) != int(mix(2, 1))


@given(st.integers(1, 300), integers)
def test_permutation_holds_every_row_once(size: int, seed: int) -> None:
    order = permutation(size, seed, 0)
    assert sorted(order.tolist()) == list(range(size))


def test_permutation_depends_on_every_part_of_its_key() -> None:
    orders = [permutation(50, *key).tolist() for key in ((0, 0), (0, 1), (1, 0))]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert permutation(50, 0, 1).tolist() == orders[1]
