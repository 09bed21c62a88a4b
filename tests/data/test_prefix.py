from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from turnout.config.errors import ConfigError
from turnout.data.packing import PackedRows, pack
from turnout.data.prefix import CausalPrefixRows, SplitRows, split_length
from turnout.data.rows import draw_below
from turnout.data.side import Side
from turnout.data.tokenizers import ByteTokenizer

# Byte b is id b + 3: a = 97 + 3 = 100, b 101, c 102, d 103, e 104, f 105; end of text is 1.
TOKENIZER = ByteTokenizer()
TOKENS = TOKENIZER.encode_array(b"abcdef" * 40)
SIDE = Side.held([TOKENS])
texts = st.lists(st.binary(max_size=12), min_size=1, max_size=12)


def packed_rows(documents: list[bytes], length: int, **options: int) -> PackedRows:
    return pack(Side.held(TOKENIZER.encode_documents(documents)), TOKENIZER, length, **options)


def first_with(rows: SplitRows, prefix: int) -> int:
    """A row number whose draw is a prefix of this length."""
    number = np.arange(200)
    inputs = rows.read(np.zeros(200, dtype=np.int64), number).encoder
    return int(np.flatnonzero((inputs.mask.sum(1) == prefix + 1).numpy())[0])


def test_rows_for_an_encoder_written_out() -> None:
    rows = SplitRows(SIDE, TOKENIZER, 6, seed=0)
    assert rows.num_rows == 40
    # a b | c d e f : the inputs end behind b, the targets behind f; six positions each.
    number = np.array([first_with(rows, 2), first_with(rows, 5)])
    found = rows.read(np.array([0, 7]), number)
    assert found.encoder.ids.tolist() == [[100, 101, 1, 0, 0, 0], [100, 101, 102, 103, 104, 1]]
    assert found.encoder.mask.sum(1).tolist() == [3, 6]
    assert found.targets.tolist() == [[102, 103, 104, 105, 1, 0], [105, 1, 0, 0, 0, 0]]
    # The decoder begins behind the start id and reads its targets one place later.
    assert found.decoder.ids.tolist() == [[0, 102, 103, 104, 105, 0], [0, 105, 0, 0, 0, 0]]
    assert found.target_mask.sum(1).tolist() == [5, 2]
    assert torch.equal(found.decoder.mask, found.target_mask)
    assert found.decoder.position.tolist()[0] == [0, 1, 2, 3, 4, 0]
    assert found.decoder.visible is None
    # The bytes behind the prefixes: 2 to 5 of row 0, and the last of row 7, 7 * 6 + 5.
    assert rows.predicted(np.array([0, 7]), number).tolist() == [2, 3, 4, 5, 47]


def test_rows_of_one_stack_written_out() -> None:
    # "abcd" and "ef" with their ends are the rows  a b c d 1 | e  and  f 1 .
    rows = CausalPrefixRows(packed_rows([b"abcd", b"ef"], 6), seed=0)
    numbers = np.arange(100)
    found = rows.read(np.zeros(100, dtype=np.int64), numbers)
    assert found.decoder.ids[0].tolist() == [0, 100, 101, 102, 103, 0]
    assert found.targets[0].tolist() == [100, 101, 102, 103, 1, 104]
    # The prefix is a b: start, a and b are visible, and b's place predicts c, the first with loss.
    two = int(np.flatnonzero((found.decoder.visible[:, :5].sum(1) == 3).numpy())[0])
    assert found.decoder.visible[two].tolist() == [True, True, True, False, False, True]
    assert found.target_mask[two].tolist() == [False, False, True, True, True, True]
    # e is alone in its row: nothing can precede it but the start, and it is predicted.
    assert bool(found.target_mask[:, 5].all()) and bool(found.decoder.visible[:, 5].all())
    # a b | c d end: bytes 2, 3 and e, which is byte 4.
    assert rows.predicted(np.array([0]), numbers[two : two + 1]).tolist() == [2, 3, 4]


@given(st.integers(2, 40), st.integers(0, 2**62), st.integers(0, 2**40))
def test_what_is_read_and_written_is_the_text(length: int, seed: int, number: int) -> None:
    rows = SplitRows(SIDE, TOKENIZER, length, seed)
    found = rows.read(np.array([1]), np.array([number]))
    inputs = found.encoder.ids[found.encoder.mask].tolist()
    targets = found.targets[found.target_mask].tolist()
    assert inputs[-1] == targets[-1] == 1
    assert 1 <= len(inputs) - 1 < length
    assert inputs[:-1] + targets[:-1] == TOKENS[length : 2 * length].tolist()
    assert found.encoder.ids.shape == found.targets.shape == (1, length)


@given(texts, st.integers(2, 16), st.integers(0, 99))
def test_every_segment_is_split_once(documents: list[bytes], length: int, seed: int) -> None:
    packed = packed_rows(documents, length, max_segments=4)
    every = np.arange(packed.num_rows)
    plain = packed.read(every, every)
    found = CausalPrefixRows(packed, seed).read(every, every)
    stream = found.decoder
    assert torch.equal(stream.ids, plain.decoder.ids)
    assert torch.equal(found.targets, plain.targets)
    assert not bool((found.target_mask & ~stream.mask).any())
    assert not bool((stream.visible & ~stream.mask).any())
    for row in range(packed.num_rows):
        for segment in range(1, int(stream.segment[row].max()) + 1):
            here = stream.segment[row] == segment
            size = int(here.sum())
            prefix = size - int(found.target_mask[row][here].sum())
            assert 1 <= prefix < size if size > 1 else prefix == 0
            # Visible up to the place that predicts the first target, which alone is both.
            expected = [place <= prefix for place in range(size)]
            assert stream.visible[row][here].tolist() == expected
            assert found.target_mask[row][here].tolist() == [p >= prefix for p in range(size)]


def test_places_are_uniform_and_new_in_every_epoch() -> None:
    rows = SplitRows(SIDE, TOKENIZER, 5, seed=3)
    number = np.arange(4000)
    zero = np.zeros(4000, dtype=np.int64)
    drawn = (rows.read(zero, number).encoder.mask.sum(1) - 1).tolist()
    # 1 to 4 tokens, 1,000 times each; the deviation of a count is sqrt(4000 * 3 / 16) = 27.
    counts = Counter(drawn)
    assert sorted(counts) == [1, 2, 3, 4]
    assert max(abs(count - 1000) for count in counts.values()) < 4 * 27
    assert drawn[:48] != drawn[48:96]
    # Alone, in another order, in another call: the same.
    again = rows.read(zero[:3], np.array([7, 3000, 0])).encoder.mask.sum(1) - 1
    assert again.tolist() == [drawn[7], drawn[3000], drawn[0]]


def test_segments_of_a_row_are_split_independently() -> None:
    rows = CausalPrefixRows(packed_rows([b"abcde", b"fghij"], 12), seed=0)
    found = rows.read(np.zeros(300, dtype=np.int64), np.arange(300))
    one, other = found.target_mask[:, :6].sum(1), found.target_mask[:, 6:].sum(1)
    assert len(set(zip(one.tolist(), other.tolist(), strict=True))) == 25


@given(st.lists(st.integers(1, 2**40), min_size=1, max_size=20), st.integers(0, 2**62))
def test_draws_stay_below_their_bounds(bounds: list[int], seed: int) -> None:
    bound = np.array(bounds)
    drawn = draw_below(bound, np.full_like(bound, -seed))
    assert ((drawn >= 0) & (drawn < bound)).all()


def test_lengths_that_hold_no_two_parts() -> None:
    assert split_length(512, 114) == 114
    with pytest.raises(ConfigError, match=r"model\.encoder_length = 1: must be at least 2"):
        split_length(1, 8)
    with pytest.raises(ConfigError, match=r"model\.decoder_length = 1: must be at least 2"):
        split_length(8, 1)
