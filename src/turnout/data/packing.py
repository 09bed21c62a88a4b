"""Rows for the causal objective: documents one behind the other, cut into rows of one length.

Every document is ended by the end-of-text id. Position t of a row reads the token before t in the
same document; the first token of a document is predicted from the padding id, which is a real
position there. So no document sees another, and each token of the text is a target exactly once.
A document that a row cuts goes on in the next row with its last token as the first input, as a
segment of its own whose positions start at 0 again.

Axes: B batch, S row length, R rows, N tokens, K documents, K1 one more.
"""

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int64, Integer

from turnout.config.errors import UserError
from turnout.data.batch import Stream
from turnout.data.rows import Examples, RowSource, tensor
from turnout.data.side import Side
from turnout.data.tokenizers import Tokenizer

MAX_SEGMENTS = 16


@dataclass(frozen=True)
class PackedRows(RowSource):
    """Row r holds the tokens ``begin[r] : end[r]`` and padding up to ``length``.

    Attributes:
        side: all documents; here each is followed by an end of text.
        starts: where each document begins, ends of text counted, and the end of the last.
        begin, end: the rows, in the order of the text; together they are the whole text.
        length: positions of a row.
        max_segments: bound on the documents that a row touches.
        first, last: the ids that a document's first token reads, and that ends it.
    """

    side: Side
    starts: Int64[np.ndarray, " K1"]
    begin: Int64[np.ndarray, " R"]
    end: Int64[np.ndarray, " R"]
    length: int
    max_segments: int
    first: int
    last: int

    @property
    def num_rows(self) -> int:
        return len(self.begin)

    @property
    def num_tokens(self) -> int:
        return int(self.starts[-1])

    def read(self, index: Int64[np.ndarray, " B"], number: Int64[np.ndarray, " B"]) -> Examples:
        """See ``RowSource.read``; nothing here depends on ``number``."""
        offset, real = self._offsets(index)
        document = self._document(offset)
        start = self.starts[document]
        first = self.begin[index][:, None]
        before = self._tokens(np.maximum(offset - 1, start), document)
        ids = np.where(offset == start, self.first, before)
        mask = torch.from_numpy(real)
        return Examples(
            decoder=Stream(
                ids=tensor(ids * real),
                mask=mask,
                segment=tensor((document - document[:, :1] + 1) * real),
                position=tensor((offset - np.maximum(start, first)) * real),
                max_segments=self.max_segments,
            ),
            targets=tensor(self._tokens(offset, document) * real),
            target_mask=mask.clone(),
        )

    def predicted(
        self, index: Int64[np.ndarray, " B"], number: Int64[np.ndarray, " B"]
    ) -> Int64[np.ndarray, " N"]:
        """See ``RowSource.predicted``; ends of text are no tokens of it."""
        return self.text_at(index, np.ones((len(index), self.length), dtype=bool))

    def text_at(
        self, index: Int64[np.ndarray, " B"], chosen: Bool[np.ndarray, "B S"]
    ) -> Int64[np.ndarray, " N"]:
        """Sorted offsets, among the tokens of the side, of those of text among the ``chosen``
        targets of rows ``index``."""
        offset, real = self._offsets(index)
        offset = np.sort(offset[real & chosen])
        document = self._document(offset)
        is_text = offset + 1 < self.starts[document + 1]
        positions: Int64[np.ndarray, " N"] = (offset - document)[is_text]
        return positions

    def padded(self) -> "PackedRows":
        """The same pieces of documents, one a row, padded on the right."""
        begin = np.union1d(self.begin, self.starts[:-1])
        end = np.append(begin[1:], self.num_tokens)
        return PackedRows(self.side, self.starts, begin, end, self.length, 1, self.first, self.last)

    def _document(self, offset: Int64[np.ndarray, "..."]) -> Int64[np.ndarray, "..."]:
        return np.searchsorted(self.starts, offset, side="right") - 1

    def _tokens(
        self, offset: Int64[np.ndarray, "..."], document: Int64[np.ndarray, "..."]
    ) -> Integer[np.ndarray, "..."]:
        """The tokens at these offsets, which lie in these documents."""
        ends = offset + 1 == self.starts[document + 1]
        tokens = self.side.read(np.where(ends, 0, offset - document))
        return np.where(ends, self.last, tokens)

    def _offsets(
        self, index: Int64[np.ndarray, " B"]
    ) -> tuple[Int64[np.ndarray, "B S"], Bool[np.ndarray, "B S"]]:
        """Offsets of the rows' tokens; those of padding repeat the first token's."""
        begin, end = self.begin[index][:, None], self.end[index][:, None]
        offset = begin + np.arange(self.length)
        real = offset < end
        return np.where(real, offset, begin), real


def pack(
    side: Side, tokenizer: Tokenizer, length: int, *, max_segments: int = MAX_SEGMENTS
) -> PackedRows:
    """Cut the documents into rows of ``length`` tokens.

    A row that would touch more than ``max_segments`` documents ends before the next one, which
    begins the next row; the rest is padding. Only runs of very short documents come to that.

    Raises:
        UserError: there is no document.
    """
    if not side.num_documents:
        raise UserError("data.paths: no document to train on; give files of text")
    starts = side.starts + np.arange(side.num_documents + 1)
    begin = _row_starts(starts[:-1].tolist(), int(starts[-1]), length, max_segments)
    end = np.append(begin[1:], starts[-1])
    return PackedRows(side, starts, begin, end, length, max_segments, tokenizer.pad, tokenizer.eos)


def _row_starts(
    starts: list[int], total: int, length: int, max_segments: int
) -> Int64[np.ndarray, " R"]:
    rows, at = [], 0
    while at < total:
        rows.append(at)
        beyond = bisect_right(starts, at) - 1 + max_segments
        at = min(at + length, starts[beyond] if beyond < len(starts) else total)
    return np.array(rows, dtype=np.int64)
