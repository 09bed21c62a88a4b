"""From paths and a tokenizer to the tokens of two sides, through the cache.

The cache holds a folder for each set of paths::

    corpora/NAME-KEY/lock
    corpora/NAME-KEY/source.json            which text the paths had when, by their stamp
    corpora/NAME-KEY/text-SHA/              the text; see ``text``
    corpora/NAME-KEY/text-SHA/tokens-KEY/   its tokens by one tokenizer; see ``tokens``
    corpora/NAME-KEY/text-SHA/learnt-KEY/   a vocabulary learnt from it

What has no manifest was never finished and is made again. Axes: K documents.
"""

import hashlib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from turnout.config.tokenizers import TokenizerConfig, TrainedConfig
from turnout.data import overlap
from turnout.data.overlap import Overlap
from turnout.data.progress import Progress
from turnout.data.shards.files import (
    FORMAT,
    MANIFEST,
    Damage,
    read_json,
    write_json,
)
from turnout.data.shards.lock import locked
from turnout.data.shards.text import Text, build_text, open_text
from turnout.data.shards.tokens import Tokens, build_tokens, open_tokens
from turnout.data.shards.vocabulary import learnt
from turnout.data.side import Side, SideText
from turnout.data.sources import Sources, open_sources
from turnout.data.split import Split, split
from turnout.data.tokenizers import Tokenizer
from turnout.data.tokenizers.load import load

_SOURCE = "source.json"
_BUILDING = "building"


@dataclass(frozen=True)
class Request:
    """What text is asked for, and how it is split.

    Attributes:
        paths: see ``sources.read``.
        field: what holds the text in sources of records.
        validation_share: of the bytes.
        cache: the folder of all caches.
        threads: for tokenising; 0 takes the processor's.
        thorough: hash every file of the cache, however large.
    """

    paths: tuple[str, ...]
    field: str
    validation_share: float
    cache: Path
    threads: int = 0
    thorough: bool = False


@dataclass(frozen=True)
class Corpus:
    """A text, split and tokenised.

    Attributes:
        origin: what was read, in words.
        folder: where text and tokens lie.
    """

    origin: str
    folder: Path
    text: Text
    split: Split
    tokenizer: Tokenizer
    tokens: Tokens
    overlap: Overlap

    @property
    def train(self) -> Side:
        """What is trained on."""
        return Side.of(self.tokens, np.flatnonzero(~self.split.held_out))

    @property
    def validation(self) -> Side:
        """What is held out."""
        return Side.of(self.tokens, np.flatnonzero(self.split.held_out))

    @property
    def train_text(self) -> SideText:
        """The documents of ``train``."""
        return _side_text(self.text, self.split, held_out=False)

    @property
    def validation_text(self) -> SideText:
        """The documents of ``validation``."""
        return _side_text(self.text, self.split, held_out=True)


def open_corpus(
    request: Request, tokenizer: Tokenizer | TokenizerConfig, progress: Progress
) -> Corpus:
    """Read, split and tokenise a text, or map what an earlier call left in the cache.

    Args:
        tokenizer: a tokenizer, or the configuration of one.

    Raises:
        UserError: see ``sources.read``, ``split`` and ``tokenizers.load``.
    """
    sources = open_sources(request.paths, request.field)
    folder = request.cache / "corpora" / _name(sources)
    with locked(folder, progress):
        text = _text(sources, folder, request, progress)
        sides = split(text, request.validation_share)
        work = _Work(text, sides, request, progress)
        found = work.tokenizer(tokenizer)
        tokens = work.tokens(found)
        common = work.overlap()
    return Corpus(sources.origin, folder, text, sides, found, tokens, common)


def training_text(request: Request, progress: Progress) -> SideText:
    """What ``open_corpus`` would train on, not tokenised.

    Raises:
        UserError: see ``sources.read`` and ``split``.
    """
    sources = open_sources(request.paths, request.field)
    folder = request.cache / "corpora" / _name(sources)
    with locked(folder, progress):
        text = _text(sources, folder, request, progress)
        return _side_text(text, split(text, request.validation_share), held_out=False)


def _text(sources: Sources, folder: Path, request: Request, progress: Progress) -> Text:
    """The text of the sources as they are now."""
    stamp = _digest(*sources.stamp)
    known = read_json(folder / _SOURCE) or {}
    before = str(known.get("text", ""))
    if before and known.get("stamp") == stamp:
        try:
            return open_text(_text_folder(folder, before), thorough=request.thorough)
        except Damage as damage:
            progress.note(f"data: the cached text is damaged ({damage}); it is read anew")
            shutil.rmtree(_text_folder(folder, before), ignore_errors=True)
    building = _fresh(folder / _BUILDING)
    try:
        sha256 = build_text(sources, building, progress)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    text = _placed(building, _text_folder(folder, sha256))
    if before and before != sha256:
        progress.note(
            f"data: {sources.origin} has changed since it was tokenised (sha256 {before[:12]}, "
            f"now {sha256[:12]}); it is tokenised anew"
        )
        shutil.rmtree(_text_folder(folder, before), ignore_errors=True)
    write_json(folder / _SOURCE, {"format": FORMAT, "stamp": stamp, "text": sha256})
    return text


def _placed(building: Path, place: Path) -> Text:
    """The text just built, in its place, unless the same one already lies there unharmed."""
    try:
        text = open_text(place)
        shutil.rmtree(building)
        return text
    except Damage:
        shutil.rmtree(place, ignore_errors=True)
        building.rename(place)
        return open_text(place)


@dataclass(frozen=True)
class _Work:
    """What is made from one text and one split."""

    text: Text
    split: Split
    request: Request
    progress: Progress

    def tokenizer(self, wanted: Tokenizer | TokenizerConfig) -> Tokenizer:
        return load(wanted, self._learnt)

    def tokens(self, tokenizer: Tokenizer) -> Tokens:
        key = _digest(tokenizer.fingerprint, self.split.bounds.tobytes().hex())[:16]
        folder = self.text.folder / f"tokens-{key}"
        try:
            return open_tokens(folder, thorough=self.request.thorough)
        except Damage as damage:
            if (folder / MANIFEST).exists():
                self.progress.note(f"data: cached tokens are damaged ({damage}); made anew")
        threads = self.request.threads or os.cpu_count() or 1
        build_tokens(
            self.text, self.split.bounds, tokenizer, _fresh(folder), threads, self.progress
        )
        return open_tokens(folder)

    def overlap(self) -> Overlap:
        path = self.text.folder / f"overlap-{self._sides()[:16]}.json"
        table = read_json(path)
        if table is not None:
            return Overlap(int(table["asked"]), int(table["found"]))
        train = _side_text(self.text, self.split, held_out=False)
        held_out = _side_text(self.text, self.split, held_out=True)
        found = overlap.measure(train, held_out, self.progress)
        write_json(path, {"format": FORMAT, "asked": found.asked, "found": found.found})
        return found

    def _learnt(self, config: TrainedConfig) -> Tokenizer:
        """The vocabulary of the training side."""
        folder = self.text.folder / f"learnt-{_digest(repr(config), self._sides())[:16]}"
        train = _side_text(self.text, self.split, held_out=False)
        thorough = self.request.thorough
        return learnt(config, (train,), folder, self.progress, thorough=thorough)

    def _sides(self) -> str:
        bounds, held_out = self.split.bounds, self.split.held_out
        return _digest(bounds.tobytes().hex(), np.packbits(held_out).tobytes().hex())


def _side_text(text: Text, sides: Split, *, held_out: bool) -> SideText:
    return SideText(text, sides.bounds, np.flatnonzero(sides.held_out == held_out))


def _name(sources: Sources) -> str:
    """A folder's name that a person recognises, and that no two sets of paths share."""
    words = re.sub(r"[^A-Za-z0-9]+", "-", Path(sources.identity[-1]).name)[:32].strip("-")
    return f"{words or 'text'}-{_digest(*sources.identity)[:16]}"


def _text_folder(folder: Path, sha256: str) -> Path:
    return folder / f"text-{sha256[:16]}"


def _fresh(folder: Path) -> Path:
    """The folder, empty: what an interrupted build left behind is worth nothing."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _digest(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode(errors="surrogateescape")
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()
