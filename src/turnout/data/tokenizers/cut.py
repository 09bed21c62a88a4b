"""Long texts in parts that a tokenizer can take one at a time."""

from collections.abc import Iterator


def parts(text: bytes, size: int) -> Iterator[bytes]:
    """UTF-8 text in parts of at most ``size`` bytes (at least 8); a short text is one part.

    A part ends behind a line break in its second half, or else before a space there, or else
    between two characters. Where a text is cut depends on the text alone.
    """
    at = 0
    while len(text) - at > size:
        low, high = at + size // 2, at + size
        end = text.rfind(b"\n", low, high) + 1 or max(text.rfind(b" ", low, high), 0) or high
        while end > at + 4 and text[end] & 0xC0 == 0x80:
            end -= 1
        yield text[at:end]
        at = end
    yield text[at:]
