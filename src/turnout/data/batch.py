"""The batch: what the data side hands to a model. Axes: B batch, S sequence."""

from dataclasses import dataclass

from jaxtyping import Bool, Int
from torch import Tensor

from turnout.pytree import pytree


@pytree(static=("max_segments",))
@dataclass(frozen=True)
class Stream:
    """One sequence of tokens a row, as one stack reads it.

    Attributes:
        ids: vocabulary ids; 0 where there is padding.
        mask: True for real tokens.
        segment: document within a packed row, counted from 1; 0 for padding.
        position: index of the token within its segment.
        max_segments: a bound on the segments of a row, fixed by the configuration.
        visible: True for the tokens that all of their segment may read, those before them too:
            the prefix of a prefix language model. None where nothing is read ahead.
    """

    ids: Int[Tensor, "B S"]
    mask: Bool[Tensor, "B S"]
    segment: Int[Tensor, "B S"]
    position: Int[Tensor, "B S"]
    max_segments: int = 1
    visible: Bool[Tensor, "B S"] | None = None


@pytree(static=("progress",))
@dataclass(frozen=True)
class Batch:
    """Rows of a step; batch *i* is a pure function of (seed, i).

    Attributes:
        decoder: what the decoder reads (already shifted: it never holds its own target).
        targets: the token each decoder position must predict.
        target_mask: True where a target carries loss.
        keys: mix(seed, step, global row): the only source of router noise.
        row: global row number.
        encoder: what the encoder reads; None for decoder-only models.
        labels: one integer a row, or None.
        text_bytes: bytes of text that each row's targets stand for, or None where nobody counted;
            ends of text and sentinels are no text.
        progress: share of the run that is done, in [0, 1].
    """

    decoder: Stream
    targets: Int[Tensor, "B S"]
    target_mask: Bool[Tensor, "B S"]
    keys: Int[Tensor, " B"]
    row: Int[Tensor, " B"]
    encoder: Stream | None = None
    labels: Int[Tensor, " B"] | None = None
    progress: float = 0.0
    text_bytes: Int[Tensor, " B"] | None = None
