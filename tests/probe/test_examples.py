"""Places in the text, worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.data.tokenizers import ByteTokenizer
from turnout.probe.characters import readable
from turnout.probe.examples import AFTER, BEFORE, OTHER, SERVED, THIS, Rows
from turnout.probe.reading import LayerRecord, summarise

TOKENIZER = ByteTokenizer()


def rows(text: bytes, experts: list[int]) -> Rows:
    ids = np.array([TOKENIZER.encode(text)], dtype=np.int64)
    return Rows(ids, ids > 0, np.array(experts, dtype=np.int64)[None, :, None])


def test_pieces_by_hand():
    # Expert 1 served c, d and f; the example is about d, c is its neighbour in both senses.
    found = rows(b"abcdefg", [0, 0, 1, 1, 0, 1, -1]).around(1, 0, 3)
    assert [(piece.text, piece.kind) for piece in found] == [
        ("ab", OTHER),
        ("c", SERVED),
        ("d", THIS),
        ("e", OTHER),
        ("f", SERVED),
        ("g", OTHER),
    ]


@given(st.integers(0, 199))
def test_the_window_is_bounded_and_holds_the_place(place: int):
    text = bytes(range(32, 127)) * 3
    found = rows(text[:200], [0] * 200).around(0, 0, place)
    before, after = min(place, BEFORE), min(199 - place, AFTER)
    assert (
        "".join(piece.text for piece in found) == text[place - before : place + after + 1].decode()
    )
    (this,) = [piece.text for piece in found if piece.kind == THIS]
    assert this == chr(text[place])


def test_padding_is_no_text():
    ids = np.array([[*TOKENIZER.encode(b"ab"), 0, 0]], dtype=np.int64)
    found = Rows(ids, ids > 0, np.zeros((1, 4, 1), dtype=np.int64)).around(0, 0, 0)
    assert [(piece.text, piece.kind) for piece in found] == [("a", THIS), ("b", SERVED)]


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        (TOKENIZER.encode("ש\U0001f600\n"), "ש\U0001f600\n"),
        ([0xD7 + 3], "\\xd7"),
        ([0, *TOKENIZER.encode(b"a"), 1, 383], "<start>a<end><blank 0>"),
        ([], ""),
    ],
)
def test_readable(ids: list[int], text: str):
    assert readable(tuple(ids)) == text


def test_examples_show_what_is_typical():
    # Of 20 "abcx" expert 1 reads every x. The x at place 43 is the eleventh of 20, the middle one.
    text = b"abcx" * 20
    ids = np.array([TOKENIZER.encode(text)], dtype=np.int64)
    served = np.array([[[int(byte == ord("x"))] for byte in text]], dtype=np.int64)
    layer = summarise([LayerRecord("l", "decoder", 2, ids, ids > 0, served)]).layers[0]
    (example,) = layer.experts[1].examples
    assert (example.typical, example.lift) == ("x", 4.0)
    kinds = [piece.kind for piece in example.pieces]
    assert kinds.count(THIS) == 1
    assert [p.text for p in example.pieces if p.kind in (THIS, SERVED)] == ["x"] * 17
    # 40 before it hold ten x, itself, 24 behind it six more.
    assert kinds[: kinds.index(THIS)].count(SERVED) == 10
    assert kinds[kinds.index(THIS) :].count(SERVED) == 6
    texts = {example.typical for example in layer.experts[0].examples}
    assert {"a", "b", "c"} <= texts


def test_an_idle_expert_has_no_example():
    ids = np.array([TOKENIZER.encode(b"a" * 40)], dtype=np.int64)
    served = np.zeros((1, 40, 1), dtype=np.int64)
    layer = summarise([LayerRecord("l", "decoder", 2, ids, ids > 0, served)]).layers[0]
    assert layer.experts[1].examples == ()
