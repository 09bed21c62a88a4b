"""Generation as text: whole characters as they come, and stops that are found in the text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

from turnout.config.errors import require
from turnout.config.generation import GenerateOptions
from turnout.data.tokenizers import Tokenizer
from turnout.generate.loop import Step, generate, stream
from turnout.models.base import Model

UNFINISHED = "\ufffd"  # what a tokenizer reads for bytes that are no character, or not yet
WINDOW = 64  # tokens that are decoded again with every new one, at most, ..
CONTEXT = 16  # .. and that a new window begins with


@dataclass(frozen=True)
class Piece:
    """New text of one row."""

    row: int
    text: str


@final
@dataclass(frozen=True)
class StopStrings:
    """Texts that end a row, wherever in them its tokens begin and end.

    Raises:
        ConfigError: a text is empty.
    """

    tokenizer: Tokenizer
    texts: tuple[str, ...]

    def __post_init__(self) -> None:
        for text in self.texts:
            require(bool(text), "stop", text, "a text of at least one character")

    def __call__(self, tokens: list[int]) -> bool:
        """Whether one of the texts ends within the last of ``tokens``; call it for every token.

        Decodes no more of them than can hold the last token and the longest text before it.
        """
        lengths = self.tokenizer.byte_lengths
        wanted = max((len(text.encode()) for text in self.texts), default=0)
        wanted += int(lengths[tokens[-1]])
        start = len(tokens)
        while start and wanted > 0:
            start -= 1
            wanted -= int(lengths[tokens[start]])
        end = self.tokenizer.decode(tokens[start:])
        return any(text in end for text in self.texts)

    def place(self, text: str, start: int = 0) -> int | None:
        """Where the first stop in ``text`` from ``start`` on begins."""
        found = [place for stop in self.texts if (place := text.find(stop, start)) >= 0]
        return min(found, default=None)

    def cut(self, text: str) -> str:
        """``text`` up to its first stop."""
        return text[: self.place(text)]

    def begun(self, text: str) -> int:
        """Characters at the end of ``text`` that may be the beginning of a stop."""
        sizes = (n for stop in self.texts for n in range(1, len(stop)) if text.endswith(stop[:n]))
        return max(sizes, default=0)


@final
class Transcript:
    """The text of one row's tokens, told piece by piece: the pieces together are the whole,
    ``stops.cut(tokenizer.decode(tokens))``.

    What may still change is held back: bytes that are no character yet, and the beginning of a
    stop. Tokenizers may drop a space in front of the first token they decode, so a window of
    tokens is decoded, and moved only where its end reads the same by itself.
    """

    def __init__(self, stops: StopStrings) -> None:
        self.stops = stops
        self._window: list[int] = []
        self._told = 0  # characters of the window's text
        self._closed = False

    def add(self, token: int) -> str:
        """The text that is certain with one more token."""
        if self._closed:
            return ""
        self._window.append(token)
        text = self.stops.tokenizer.decode(self._window)
        end = self.stops.place(text, self._told)
        self._closed = end is not None
        if end is None:
            whole = text.rstrip(UNFINISHED)
            end = max(len(whole) - self.stops.begun(whole), self._told)
        new = text[self._told : end]
        self._told = end
        self._move(text)
        return new

    def rest(self) -> str:
        """What was held back, when no token follows; nothing can be added any more."""
        text = "" if self._closed else self.stops.tokenizer.decode(self._window)[self._told :]
        self._closed = True
        return text

    def _move(self, text: str) -> None:
        if len(self._window) < WINDOW or self._told < len(text):
            return
        tail = self.stops.tokenizer.decode(self._window[-CONTEXT:])
        if tail and text.endswith(tail):
            self._window = self._window[-CONTEXT:]
            self._told = len(tail)


def generate_text(
    model: Model,
    tokenizer: Tokenizer,
    prompts: list[list[int]],
    options: GenerateOptions | None = None,
    *,
    stop: Sequence[str] = (),
) -> list[str]:
    """As ``generate``, with the new text of each prompt: up to the first of ``stop``, if any.

    Raises:
        UserError: as ``generate``; or a stop is empty.
    """
    stops = StopStrings(tokenizer, tuple(stop))
    new = generate(model, prompts, options, ends=stops if stop else None)
    return [stops.cut(tokenizer.decode(tokens)) for tokens in new]


def stream_text(
    model: Model,
    tokenizer: Tokenizer,
    prompts: list[list[int]],
    options: GenerateOptions | None = None,
    *,
    stop: Sequence[str] = (),
) -> Iterator[Piece]:
    """As ``generate_text``, piece by piece; the pieces of a row together are its text.

    A piece holds whole characters; bytes that never became one are U+FFFD.

    Raises:
        UserError: as ``stream``; or a stop is empty.
    """
    stops = StopStrings(tokenizer, tuple(stop))
    steps = stream(model, prompts, options, ends=stops if stop else None)
    return _pieces(steps, [Transcript(stops) for _ in prompts])


def _pieces(steps: Iterator[Step], transcripts: list[Transcript]) -> Iterator[Piece]:
    for step in steps:
        for row, (transcript, token) in enumerate(zip(transcripts, step, strict=True)):
            text = transcript.rest() if token is None else transcript.add(token)
            if text:
                yield Piece(row, text)
    for row, transcript in enumerate(transcripts):
        if text := transcript.rest():
            yield Piece(row, text)
