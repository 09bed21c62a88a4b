"""What n-gram baselines count and score, as bytes. Axes: N tokens or bytes."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from turnout.data.side import Side, SideText
from turnout.data.tokenizers import Tokenizer

MOST_BYTES = 1 << 26


def counted(training: Sequence[SideText]) -> list[bytes]:
    """All training documents, or of a large text some spread evenly over it: 64 MiB or so."""
    every = max(sum(side.num_bytes for side in training) / MOST_BYTES, 1.0)
    chosen: list[bytes] = []
    before = taken = 0
    for side in training:
        sizes = side.ends - side.begins
        for index, end in enumerate((before + np.cumsum(sizes)).tolist()):
            if taken * every <= end:
                taken += int(sizes[index])
                chosen.append(side[index])
        before += int(sizes.sum())
    return chosen


def asked(
    side: Side, text: SideText, tokenizer: Tokenizer, offsets: Int64[np.ndarray, " N"]
) -> tuple[list[bytes], Int64[np.ndarray, " M"]]:
    """The bytes that the tokens at ``offsets`` (sorted, of ``side``) stand for.

    Only for texts whose tokens stand for exactly their bytes (``Tokens.aligned``).

    Returns:
        The documents that hold these tokens, and the places of the bytes in them, joined.
    """
    document = np.searchsorted(side.starts, offsets, side="right") - 1
    documents: list[bytes] = []
    places: list[Int64[np.ndarray, " _"]] = [np.empty(0, np.int64)]
    joined = 0
    for each in np.unique(document).tolist():
        ends = np.cumsum(tokenizer.byte_lengths[side.document(each)])
        token = offsets[document == each] - side.starts[each]
        length = tokenizer.byte_lengths[side.document(each)[token]]
        first = np.repeat(ends[token] - length, length)
        within = np.arange(int(length.sum())) - np.repeat(np.cumsum(length) - length, length)
        places.append(joined + first + within)
        documents.append(text[each])
        joined += len(documents[-1])
    return documents, np.concatenate(places)
