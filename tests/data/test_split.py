import hashlib
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.config.errors import UserError
from turnout.data.shards.text import Text
from turnout.data.side import SideText
from turnout.data.split import split

corpora = st.lists(st.binary(min_size=2, max_size=30), min_size=2, max_size=30, unique=True)


def text_of(*documents: bytes) -> Text:
    """A text held in memory."""
    digests = b"".join(hashlib.sha256(document).digest() for document in documents)
    return Text(
        folder=Path(),
        sha256="",
        content=np.frombuffer(b"".join(documents), np.uint8),
        starts=np.cumsum([0, *map(len, documents)]),
        digests=np.frombuffer(digests, np.uint8).reshape(-1, 32),
        duplicates=0,
        duplicate_bytes=0,
        skipped={},
        replaced=0,
    )


def sides(documents: tuple[bytes, ...], share: float) -> tuple[tuple[bytes, ...], ...]:
    """What is trained on, and what is held out."""
    text = text_of(*documents)
    chosen = split(text, share)
    return tuple(
        tuple(SideText(text, chosen.bounds, np.flatnonzero(chosen.held_out == side)))
        for side in (False, True)
    )


def held_out(documents: tuple[bytes, ...], share: float) -> tuple[bytes, ...]:
    return sides(documents, share)[1]


@given(corpora, st.floats(0.01, 0.99), st.randoms(use_true_random=False))
def test_sides_do_not_depend_on_the_order(
    texts: list[bytes], share: float, shuffle: random.Random
) -> None:
    train, validation = sides(tuple(texts), share)
    shuffled = texts.copy()
    shuffle.shuffle(shuffled)
    again = sides(tuple(shuffled), share)
    assert sorted(again[0]) == sorted(train)
    assert sorted(again[1]) == sorted(validation)


@given(corpora, st.floats(0.01, 0.99))
def test_nothing_is_lost_or_doubled(texts: list[bytes], share: float) -> None:
    train, validation = sides(tuple(texts), share)
    assert sorted(train + validation) == sorted(texts)
    assert train and validation


@given(corpora, st.floats(0.01, 0.99))
def test_equals_visiting_documents_in_a_loop(texts: list[bytes], share: float) -> None:
    missing, chosen = share * sum(map(len, texts)), []
    order = sorted(texts, key=lambda text: hashlib.sha256(text).digest())
    for text in order:
        if len(text) < 2 * missing:
            chosen.append(text)
            missing -= len(text)
    if not chosen:
        chosen = [min(order, key=len)]
    if len(chosen) == len(texts):
        chosen.pop()
    assert sorted(held_out(tuple(texts), share)) == sorted(chosen)


def test_share_of_many_documents() -> None:
    # 1,000 documents of 100 to 199 bytes; 5% of the bytes, to within one document (0.14%).
    texts = tuple(bytes([65 + i % 26]) * (100 + i % 100) + str(i).encode() for i in range(1000))
    share = sum(map(len, held_out(texts, 0.05))) / sum(map(len, texts))
    assert abs(share - 0.05) < 0.0014


def test_the_smallest_is_held_out_where_all_are_large() -> None:
    assert held_out((b"a" * 100, b"b" * 80, b"c" * 90), 0.01) == (b"b" * 80,)


def test_a_document_far_beyond_the_share_is_trained_on() -> None:
    # 10% of 200 bytes: two documents of ten bytes, wherever its hash places the large one.
    small = [b"%010d" % i for i in range(10)]
    for byte in range(65, 123):
        assert len(held_out((bytes([byte]) * 100, *small), 0.1)) == 2


def test_one_document_is_cut_at_a_line_break() -> None:
    # 20 lines of 5 bytes; 12% of 100 bytes would cut after byte 88, the line before ends at 85.
    assert sides((b"line\n" * 20,), 0.12) == ((b"line\n" * 17,), (b"line\n" * 3,))
    assert split(text_of(b"line\n" * 20), 0.12).note == (
        "one document: its last 15 bytes are held out"
    )


def test_one_line_of_a_megabyte_is_cut_between_characters() -> None:
    # 'é' is two bytes, so characters begin at even offsets; of 1,000,000 bytes 5.0001% would cut
    # at 949,999, inside one, and the cut moves back to 949,998.
    text = "é".encode() * 500_000
    (train,), (validation,) = sides((text,), 0.050001)
    assert train + validation == text
    assert len(validation) == 50_002
    validation.decode()


@pytest.mark.parametrize("texts", [(), (b"x",)])
def test_too_short(texts: tuple[bytes, ...]) -> None:
    with pytest.raises(UserError, match=f"{len(texts)} bytes of text are too short"):
        split(text_of(*texts), 0.05)


def test_two_bytes_give_two_sides() -> None:
    assert sides((b"xy",), 0.05) == ((b"x",), (b"y",))
