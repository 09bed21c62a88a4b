"""What surgery reads: a run, one of its steps, or a Hugging Face folder."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from turnout.config.errors import UserError
from turnout.config.tokenizers import SentencePieceConfig, TokenizerJsonConfig
from turnout.config.train import RunConfig
from turnout.convert.conversion import carried_files, keep_tokenizer, run_of
from turnout.convert.folder import INDEX, SINGLE, is_foreign, open_foreign, within
from turnout.convert.hub import located
from turnout.convert.mapping import check_copies, map_foreign
from turnout.convert.native import Native, open_native
from turnout.convert.source import Source, Translated
from turnout.data.tokenizers import Tokenizer
from turnout.data.tokenizers import load as tokenizers

CHUNK = 2**20
KeepTokenizer = Callable[[Path], Mapping[str, Any]]


@dataclass(frozen=True)
class Opened:
    """A checkpoint, nothing of whose tensors is read.

    Attributes:
        path: as it was given.
        folder: where it is.
        tensors: the weights that evaluation uses: the moving average where there is one.
        run: its configuration.
        meta: what the checkpoint says beside its tensors; nothing for a Hugging Face folder.
        sha256: of its index, or of its one file where it has none.
        native: the checkpoint where it is one of ours.
        keep_tokenizer: puts the tokenizer's file into a folder, and gives what is noted of it.
    """

    path: str
    folder: Path
    tensors: Source
    run: RunConfig
    meta: Mapping[str, Any]
    sha256: str
    native: Native | None
    keep_tokenizer: KeepTokenizer

    @property
    def has_text(self) -> bool:
        """Whether the configuration names the text that it was trained on."""
        return "text" in self.meta

    def tokenizer(self) -> Tokenizer | None:
        """The one that it was trained with; None where only the configuration names it."""
        return None if self.native is None else _restored(self.native)

    def fingerprint(self) -> str | None:
        """Of the tokenizer that its tokens are of; None where none is to be found."""
        if self.native is not None:
            known = "tokenizer" in self.meta or self.has_text
            return _restored(self.native).fingerprint if known else None
        named = self.run.data.tokenizer
        if not isinstance(named, SentencePieceConfig | TokenizerJsonConfig):
            return None
        try:
            return tokenizers.from_content(named, Path(named.path).read_bytes()).fingerprint
        except (UserError, OSError):  # such as a library that is not installed
            return None

    def carried(self) -> dict[str, Path]:
        """The files of the Hugging Face checkpoint that it came from."""
        found = dict(carried_files(self.tensors.carried))
        return {name: within(path.parent, name) for name, path in found.items()}


def open_source(path: str) -> Opened:
    """Opens what ``turnout.load`` would load.

    Raises:
        UserError: one line: what is missing, damaged or not known.
    """
    folder = located(path)
    if is_foreign(folder):
        return _foreign(path, folder)
    native = open_native(folder)

    def keep(place: Path) -> Mapping[str, Any]:
        tokenizer = _restored(native)
        tokenizers.save(tokenizer, place)
        return {"tokenizer": tokenizer.fingerprint}

    run = native.run.standing_alone()
    return Opened(path, folder, native, run, native.meta, native.sha256, native, keep)


def require_one_text(sources: Sequence[Opened]) -> tuple[str, ...]:
    """What there is to know of models whose tokens are to mean the same text.

    Raises:
        UserError: two have other tokenizers; or one has none to be found, and another number of
            tokens.
    """
    first, *others = sources
    notes = []
    wanted = first.fingerprint() if others else None
    for source in others:
        found = source.fingerprint()
        sizes = source.run.model.vocab_size, first.run.model.vocab_size
        if (found and wanted and found != wanted) or sizes[0] != sizes[1]:
            raise UserError(
                f"{source.path}: reads other tokens than {first.path} (vocabularies of {sizes[0]} "
                f"and {sizes[1]}, tokenizers {_short(found)} and {_short(wanted)}); models that "
                "are mixed have one tokenizer"
            )
        if not (found and wanted):
            lacks = source if wanted else first
            notes.append(
                f"{lacks.path} has no tokenizer that can be compared; its {sizes[0]} tokens are "
                "taken to be the others'"
            )
    return tuple(dict.fromkeys(notes))


def _short(fingerprint: str | None) -> str:
    return "unknown" if fingerprint is None else fingerprint[:12]


def _restored(native: Native) -> Tokenizer:
    asked = native.run.data.tokenizer
    return tokenizers.restore(asked, native.above, native.meta.get("tokenizer"))


def _foreign(path: str, folder: Path) -> Opened:
    foreign = open_foreign(folder)
    mapped = map_foreign(foreign)
    check_copies(foreign, mapped)
    run, _ = run_of(foreign, mapped)

    def keep(place: Path) -> Mapping[str, Any]:
        _, noted = keep_tokenizer(run, foreign, place)
        return noted

    tensors = Translated(foreign, mapped)
    return Opened(path, folder, tensors, run, {}, _digest(folder), None, keep)


def _digest(folder: Path) -> str:
    name = INDEX if (folder / INDEX).exists() else SINGLE
    found = sha256()
    with within(folder, name).open("rb") as file:
        while part := file.read(CHUNK):
            found.update(part)
    return found.hexdigest()
