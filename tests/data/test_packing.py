from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from turnout.config.errors import UserError
from turnout.data.packing import MAX_SEGMENTS, PackedRows, pack
from turnout.data.rows import Examples
from turnout.data.side import Side
from turnout.data.tokenizers import ByteTokenizer

# Byte b is id b + 3: a = 97 + 3 = 100, b 101, c 102, d 103, e 104, f 105; end of text is 1.
THREE = (b"ab", b"c", b"def")
TOKENIZER = ByteTokenizer()


def packed(documents: Sequence[bytes], length: int, **bound: int) -> PackedRows:
    side = Side.held(TOKENIZER.encode_documents(documents))
    return pack(side, TOKENIZER, length, **bound)


texts = st.lists(st.binary(max_size=12), min_size=1, max_size=25)


def read_all(rows: PackedRows) -> Examples:
    every = np.arange(rows.num_rows)
    return rows.read(every, every)


def test_three_documents_written_out() -> None:
    # The text is  a b 1 | c 1 | d e f 1 , nine tokens: rows of four take tokens 0-3, 4-7 and 8.
    # Inputs are the targets moved right inside each document, whose first token reads 0.
    rows = read_all(packed(THREE, 4))
    assert rows.targets.tolist() == [[100, 101, 1, 102], [1, 103, 104, 105], [1, 0, 0, 0]]
    assert rows.decoder.ids.tolist() == [[0, 100, 101, 0], [102, 0, 103, 104], [105, 0, 0, 0]]
    assert rows.decoder.segment.tolist() == [[1, 1, 1, 2], [1, 2, 2, 2], [1, 0, 0, 0]]
    assert rows.decoder.position.tolist() == [[0, 1, 2, 0], [0, 0, 1, 2], [0, 0, 0, 0]]
    real = [[True] * 4, [True] * 4, [True, False, False, False]]
    assert rows.decoder.mask.tolist() == rows.target_mask.tolist() == real
    assert rows.decoder.max_segments == MAX_SEGMENTS
    assert rows.encoder is None


def test_three_documents_padded() -> None:
    # The same pieces, one a row: rows begin where a packed row or a document does, 0 3 4 5 8.
    rows = read_all(packed(THREE, 4).padded())
    assert rows.targets.tolist() == [
        [100, 101, 1, 0],
        [102, 0, 0, 0],
        [1, 0, 0, 0],
        [103, 104, 105, 0],
        [1, 0, 0, 0],
    ]
    assert rows.decoder.ids[:, 0].tolist() == [0, 0, 102, 0, 105]
    assert rows.decoder.position.tolist()[3] == [0, 1, 2, 0]
    assert rows.decoder.max_segments == int(rows.decoder.segment.max()) == 1


def test_bound_on_segments_ends_a_row_early() -> None:
    # At most one document a row: tokens 0-2, 3-4, 5-8.
    rows = read_all(packed(THREE, 4, max_segments=1))
    assert rows.targets.tolist() == [[100, 101, 1, 0], [102, 1, 0, 0], [103, 104, 105, 1]]
    # At most two: the third document waits for the second row.
    rows = read_all(packed(THREE, 6, max_segments=2))
    assert rows.targets.tolist() == [[100, 101, 1, 102, 1, 0], [103, 104, 105, 1, 0, 0]]


def test_predicted_bytes_are_offsets_of_the_joined_text() -> None:
    # "abcdef": row 1 holds the end of c's document and d e f, which are bytes 3, 4, 5.
    rows = packed(THREE, 4)
    assert rows.predicted(np.array([1]), np.array([0])).tolist() == [3, 4, 5]
    assert rows.predicted(np.array([2, 0]), np.array([0, 1])).tolist() == [0, 1, 2]


@given(texts, st.integers(1, 20), st.integers(1, 5))
def test_packing_loses_and_doubles_no_token(
    documents: list[bytes], length: int, bound: int
) -> None:
    rows = packed(documents, length, max_segments=bound)
    for form in (rows, rows.padded()):
        examples = read_all(form)
        flat = examples.targets[examples.target_mask].tolist()
        assert flat == [t for text in documents for t in (*(b + 3 for b in text), 1)]
        assert int(examples.decoder.segment.max()) <= form.max_segments
        assert not (examples.decoder.ids * ~examples.decoder.mask).any()


@given(texts, st.integers(1, 20), st.integers(1, 5))
def test_packed_and_padded_rows_hold_the_same_pieces(
    documents: list[bytes], length: int, bound: int
) -> None:
    rows = packed(documents, length, max_segments=bound)
    assert _pieces(read_all(rows)) == _pieces(read_all(rows.padded()))


def _pieces(examples: Examples) -> list[tuple[list[int], list[int], list[int]]]:
    stream, found = examples.decoder, []
    for row in range(len(stream.ids)):
        for segment in range(1, int(stream.segment[row].max()) + 1):
            here = stream.segment[row] == segment
            fields = (stream.ids, examples.targets, stream.position)
            found.append(tuple(field[row][here].tolist() for field in fields))
    return found


@given(texts, st.integers(1, 20))
def test_inputs_are_the_token_before_in_the_same_document(
    documents: list[bytes], length: int
) -> None:
    examples = read_all(packed(documents, length))
    mask = examples.target_mask
    ids, targets = examples.decoder.ids[mask].tolist(), examples.targets[mask].tolist()
    before = [0, *targets[:-1]]
    assert ids == [0 if token == 1 else token for token in before]


def test_rows_can_be_read_in_any_order() -> None:
    rows = packed([bytes(range(i, i + 9)) for i in range(30)], 7)
    everything = read_all(rows)
    index = np.array([5, 0, 33, 5])
    some = rows.read(index, np.arange(4))
    for name in ("ids", "mask", "segment", "position"):
        expected = getattr(everything.decoder, name)[torch.from_numpy(index)]
        assert torch.equal(getattr(some.decoder, name), expected)


def test_no_document() -> None:
    with pytest.raises(UserError, match="no document to train on"):
        packed([], 8)
