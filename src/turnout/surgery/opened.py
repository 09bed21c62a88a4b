"""What surgery reads: a run, one of its steps, or a Hugging Face folder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

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
