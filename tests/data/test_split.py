import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.config.errors import UserError
from turnout.data.split import split

corpora = st.lists(st.binary(min_size=2, max_size=30), min_size=2, max_size=30)


@given(corpora, st.floats(0.01, 0.99), st.randoms(use_true_random=False))
def test_sides_do_not_depend_on_the_order(
    texts: list[bytes], share: float, shuffle: random.Random
) -> None:
    sides = split(tuple(texts), share)
    shuffled = texts.copy()
    shuffle.shuffle(shuffled)
    again = split(tuple(shuffled), share)
    assert sorted(again.train) == sorted(sides.train)
    assert sorted(again.validation) == sorted(sides.validation)


@given(corpora, st.floats(0.01, 0.99))
def test_nothing_is_lost_and_copies_stay_together(texts: list[bytes], share: float) -> None:
    if len(set(texts)) < 2:
        return
    sides = split(tuple(texts), share)
    assert sorted(sides.train + sides.validation) == sorted(texts)
    assert not set(sides.train) & set(sides.validation)
    assert sides.train and sides.validation


def test_share_of_many_documents() -> None:
    # 1,000 documents of 100 to 199 bytes; 5% of the bytes, to within one document (0.14%).
    texts = tuple(bytes([65 + i % 26]) * (100 + i % 100) + str(i).encode() for i in range(1000))
    sides = split(texts, 0.05)
    share = sides.validation_bytes / (sides.train_bytes + sides.validation_bytes)
    assert abs(share - 0.05) < 0.0014


def test_the_smallest_is_held_out_where_all_are_large() -> None:
    sides = split((b"a" * 100, b"b" * 80, b"c" * 90), 0.01)
    assert sides.validation == (b"b" * 80,)


def test_a_document_far_beyond_the_share_is_trained_on() -> None:
    # 10% of 200 bytes: two documents of ten bytes, wherever its hash places the large one.
    small = [b"%010d" % i for i in range(10)]
    for byte in range(65, 123):
        assert split((bytes([byte]) * 100, *small), 0.1).validation_bytes == 20


def test_one_document_is_cut_at_a_line_break() -> None:
    # 20 lines of 5 bytes; 12% of 100 bytes would cut after byte 88, the line before ends at 85.
    sides = split((b"line\n" * 20,), 0.12)
    assert (sides.train, sides.validation) == ((b"line\n" * 17,), (b"line\n" * 3,))
    assert sides.note == "one document: its last 15 bytes are held out"


def test_copies_of_one_document_count_as_one() -> None:
    assert split((b"line\n" * 20,) * 3, 0.12) == split((b"line\n" * 20,), 0.12)


def test_one_line_of_a_megabyte_is_cut_between_characters() -> None:
    # 'é' is two bytes, so characters begin at even offsets; of 1,000,000 bytes 5.0001% would cut
    # at 949,999, inside one, and the cut moves back to 949,998.
    text = "é".encode() * 500_000
    sides = split((text,), 0.050001)
    assert sides.train[0] + sides.validation[0] == text
    assert sides.validation_bytes == 50_002
    sides.validation[0].decode()


@pytest.mark.parametrize("texts", [(), (b"x",)])
def test_too_short(texts: tuple[bytes, ...]) -> None:
    with pytest.raises(UserError, match=f"{len(texts)} bytes of text are too short"):
        split(texts, 0.05)


def test_two_bytes_give_two_sides() -> None:
    sides = split((b"xy",), 0.05)
    assert (sides.train, sides.validation) == ((b"x",), (b"y",))
