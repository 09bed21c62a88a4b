"""Rows for the causal objective: documents one behind the other, cut into rows of one length.

Every document is ended by the end-of-text id. Position t of a row reads the token before t in the
same document; the first token of a document is predicted from the start id 0, which is a real
position. So no document sees another, and each token of the text is a target exactly once.
A document that a row cuts goes on in the next row with its last token as the first input, as a
segment of its own whose positions start at 0 again.

Axes: B batch, S row length, R rows, N tokens, K documents.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt16

from turnout.config.errors import UserError
from turnout.data.batch import Stream
from turnout.data.rows import Examples, RowSource, tensor
from turnout.data.tokenizers import ByteTokenizer

MAX_SEGMENTS = 16


@dataclass(frozen=True)
class PackedRows(RowSource):
    """Row r holds the tokens ``begin[r] : end[r]`` and padding up to ``length``.

    Attributes:
        tokens: all documents, each ended by end of text.
        starts: where each document begins in ``tokens``.
        begin, end: the rows, in the order of the text; together they are the whole text.
        length: positions of a row.
        max_segments: bound on the documents that a row touches.
    """

    tokens: UInt16[np.ndarray, " N"]
    starts: Int64[np.ndarray, " K"]
    begin: Int64[np.ndarray, " R"]
    end: Int64[np.ndarray, " R"]
    length: int
    max_segments: int

    @property
    def num_rows(self) -> int:
        return len(self.begin)

    def read(self, index: Int64[np.ndarray, " B"], number: Int64[np.ndarray, " B"]) -> Examples:
        """See ``RowSource.read``; nothing here depends on ``number``."""
        offset, real = self._offsets(index)
        document = np.searchsorted(self.starts, offset, side="right") - 1
        start = self.starts[document]
        before = self.tokens[np.maximum(offset - 1, 0)]
        first = self.begin[index][:, None]
        ids = np.where(offset == start, ByteTokenizer.pad, before)
        mask = torch.from_numpy(real)
        return Examples(
            decoder=Stream(
                ids=tensor(ids * real),
                mask=mask,
                segment=tensor((document - document[:, :1] + 1) * real),
                position=tensor((offset - np.maximum(start, first)) * real),
                max_segments=self.max_segments,
            ),
            targets=tensor(self.tokens[offset] * real),
            target_mask=mask.clone(),
        )

    def predicted(
        self, index: Int64[np.ndarray, " B"], number: Int64[np.ndarray, " B"]
    ) -> Int64[np.ndarray, " N"]:
        """See ``RowSource.predicted``; ends of text are no bytes of it."""
        return self.text_at(index, np.ones((len(index), self.length), dtype=bool))

    def text_at(
        self, index: Int64[np.ndarray, " B"], chosen: Bool[np.ndarray, "B S"]
    ) -> Int64[np.ndarray, " N"]:
        """Sorted offsets, in the concatenated documents, of the bytes among the ``chosen`` targets
        of rows ``index``."""
        offset, real = self._offsets(index)
        offset = np.sort(offset[real & chosen])
        offset = offset[self.tokens[offset] != ByteTokenizer.eos]
        ends_before = np.searchsorted(self.starts, offset, side="right") - 1
        positions: Int64[np.ndarray, " N"] = offset - ends_before
        return positions

    def padded(self) -> "PackedRows":
        """The same pieces of documents, one a row, padded on the right."""
        begin = np.union1d(self.begin, self.starts)
        end = np.append(begin[1:], len(self.tokens))
        return PackedRows(self.tokens, self.starts, begin, end, self.length, 1)

    def _offsets(
        self, index: Int64[np.ndarray, " B"]
    ) -> tuple[Int64[np.ndarray, "B S"], np.ndarray]:
        """Offsets of the rows' tokens; those of padding repeat the first token's."""
        begin, end = self.begin[index][:, None], self.end[index][:, None]
        offset = begin + np.arange(self.length)
        real = offset < end
        return np.where(real, offset, begin), real


def pack(
    documents: Sequence[bytes], length: int, *, max_segments: int = MAX_SEGMENTS
) -> PackedRows:
    """Cut the documents into rows of ``length`` tokens.

    A row that would touch more than ``max_segments`` documents ends before the next one, which
    begins the next row; the rest is padding. Only runs of very short documents come to that.

    Raises:
        UserError: there is no document.
    """
    if not documents:
        raise UserError("data.paths: no document to train on; give files of text")
    tokenizer = ByteTokenizer()
    pieces = [
        np.append(tokenizer.encode_array(text), np.uint16(tokenizer.eos)) for text in documents
    ]
    tokens = np.concatenate(pieces)
    starts = np.cumsum([0, *(len(piece) for piece in pieces[:-1])], dtype=np.int64)
    begin = _row_starts(starts.tolist(), len(tokens), length, max_segments)
    end = np.append(begin[1:], len(tokens))
    return PackedRows(tokens, starts, begin, end, length, max_segments)


def _row_starts(
    starts: list[int], total: int, length: int, max_segments: int
) -> Int64[np.ndarray, " R"]:
    rows, at = [], 0
    while at < total:
        rows.append(at)
        beyond = bisect_right(starts, at) - 1 + max_segments
        at = min(at + length, starts[beyond] if beyond < len(starts) else total)
    return np.array(rows, dtype=np.int64)
