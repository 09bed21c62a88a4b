from collections import Counter
from math import log, log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.config.errors import UserError
from turnout.data.ngrams import bits_by_order, bits_per_byte, unigram_nats

few = st.lists(st.text("abc", max_size=15).map(str.encode), min_size=1, max_size=4)


def test_ten_bytes_by_hand() -> None:
    # "abababacab": 5 a, 4 b, 1 c, so 10 bytes of 3 kinds; below order 0 stands 1/256.
    # Pairs: ab 4, ba 3, ac 1, ca 1. After a: 5 bytes of 2 kinds; after b: 3 of 1 kind.
    p0 = {
        "a": (5 + 3 / 256) / 13,
        "b": (4 + 3 / 256) / 13,
        "d": (0 + 3 / 256) / 13,
    }
    order0 = -(log2(p0["a"]) + log2(p0["b"]) + log2(p0["d"])) / 3
    assert bits_per_byte([b"abababacab"], [b"abd"], 0) == pytest.approx(order0)
    # Order 1 of "abd": a has no context; b after a; d after b, never seen there.
    order1 = -(log2(p0["a"]) + log2((4 + 2 * p0["b"]) / 7) + log2((0 + 1 * p0["d"]) / 4)) / 3
    assert bits_per_byte([b"abababacab"], [b"abd"], 1) == pytest.approx(order1)
    # Order 2: d after ab, seen 3 times and followed by a alone (the last ab ends the text).
    order2 = order1 + (log2(p0["d"] / 4) - log2(p0["d"] / 4 / 4)) / 3
    assert bits_per_byte([b"abababacab"], [b"abd"], 2) == pytest.approx(order2)
    assert bits_by_order([b"abababacab"], [b"abd"], 2) == pytest.approx([order0, order1, order2])


def test_context_never_crosses_a_document() -> None:
    # Three documents of one byte: no pair exists on either side, so order 1 is order 0.
    apart = bits_by_order([b"a", b"b", b"a"], [b"b", b"a"], 3)
    assert apart == pytest.approx([apart[0]] * 4)
    joined = bits_by_order([b"aba"], [b"ba"], 1)
    assert joined[1] != pytest.approx(joined[0])


@given(few, few, st.integers(0, 7))
def test_equals_counting_in_dictionaries(
    train: list[bytes], held_out: list[bytes], order: int
) -> None:
    if not any(train) or not any(held_out):
        return
    slow = [_probability(train, text, at, order) for text in held_out for at in range(len(text))]
    expected = -sum(map(log2, slow)) / len(slow)
    assert bits_per_byte(train, held_out, order) == pytest.approx(expected)


def _probability(train: list[bytes], text: bytes, at: int, order: int) -> float:
    """Witten and Bell by the definition: scan the whole text for every context."""
    lower = 1 / 256 if order == 0 else _probability(train, text, at, order - 1)
    if at < order:
        return lower
    context = text[at - order : at]
    after = Counter(
        seen[i] for seen in train for i in range(order, len(seen)) if seen[i - order : i] == context
    )
    if not after:
        return lower
    return (after[text[at]] + len(after) * lower) / (after.total() + len(after))


def test_only_the_chosen_positions_count() -> None:
    # Offsets run through the joined documents: 3 is the b of the second one, its context a.
    train, held_out = [b"abababacab"], [b"ca", b"ab"]
    p0_b = (4 + 3 / 256) / 13
    bits = bits_by_order(train, held_out, 1, np.array([3]))
    assert bits == pytest.approx([-log2(p0_b), -log2((4 + 2 * p0_b) / 7)])


def test_probabilities_of_all_bytes_sum_to_one() -> None:
    train = [b"the cat sat on the mat", b"the hat"]
    last = [bytes([*b"the ", byte]) for byte in range(256)]
    bits = [bits_by_order(train, [text], 4, np.array([4]))[-1] for text in last]
    assert sum(2**-each for each in bits) == pytest.approx(1)


def test_refusals() -> None:
    with pytest.raises(UserError, match="n-gram order 8: must be from 0 to 7"):
        bits_per_byte([b"a"], [b"a"], 8)
    for train, held_out in (([], [b"a"]), ([b""], [b"a"]), ([b"a"], [b""])):
        with pytest.raises(UserError, match="one side is empty"):
            bits_per_byte(train, held_out, 1)


def test_token_frequencies_by_hand() -> None:
    # Three ids seen 2, 1 and 0 times, one more each: 3/6, 2/6, 1/6.
    nats = unigram_nats(np.array([0, 1, 0]), np.array([0, 2]), 3)
    assert nats == pytest.approx((log(2) + log(6)) / 2)
