"""The examples of a data set as they stand there: from ``.jsonl`` files, or from the hub."""

import glob
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from turnout.config import io
from turnout.config.errors import UserError, nearest
from turnout.data.sources.hub import PREFIX, hub_rows
from turnout.data.sources.jsonl import json_object

SUFFIX = ".jsonl"


@dataclass(frozen=True)
class Record:
    """One example: its fields, those of nested tables as ``outer.inner``, and where it stands."""

    fields: Mapping[str, Any]
    place: str

    def value(self, name: str, what: str) -> Any:
        """What stands in a field.

        Args:
            what: in the task asks for it, for messages: ``inputs``.

        Raises:
            UserError: there is no such field.
        """
        if name not in self.fields:
            known = nearest(name, self.fields) if self.fields else "it has none"
            raise UserError(f"{self.place}: no field {name!r}, which {what} asks for; {known}")
        return self.fields[name]

    def text(self, name: str, what: str, spec: str = "") -> str:
        """A field as text; a number is written as Python writes it, or as ``spec`` says, and the
        entries of a list with commas between them.

        Raises:
            UserError: there is no such field, or neither text nor numbers in it.
        """
        value = self.value(name, what)
        entries = value if isinstance(value, list | tuple) else [value]
        where = f"{self.place}: field {name!r} of {what}"
        return ", ".join(_text(entry, spec, where) for entry in entries)

    def texts(self, name: str, what: str) -> tuple[str, ...]:
        """A field with a text or a list of them, as a tuple.

        Raises:
            UserError: there is no such field, or something else in it, or nothing.
        """
        value = self.value(name, what)
        entries = value if isinstance(value, list | tuple) else [value]
        where = f"{self.place}: field {name!r} of {what}"
        if not entries:
            raise UserError(f"{where} is an empty list: must hold a text")
        return tuple(_text(entry, "", where) for entry in entries)


def _text(value: Any, spec: str, where: str) -> str:
    if isinstance(value, str) and not spec:
        # JSON may escape half of a surrogate pair, which is no text.
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, bool | int | float) and not (spec and isinstance(value, bool)):
        return format(value, spec) if spec else str(value)
    kind = "null" if value is None else type(value).__name__
    raise UserError(f"{where} holds {kind}: must be {'a number' if spec else 'text or a number'}")


@dataclass(frozen=True)
class LocalSource:
    """``.jsonl`` files: ``splits`` where each is one of them, by its stem, else all are one."""

    streamed: ClassVar[bool] = False
    path: Path

    def records(self, split: str, option: str) -> Iterator[Record]:
        """The examples of a split, in order."""
        for file in self._files(split, option):
            try:
                with file.open("rb") as lines:
                    for number, line in enumerate(lines, 1):
                        if line.strip():
                            yield _record(line, f"{file} line {number}", option)
            except OSError as error:
                raise UserError(f"{option}: cannot read {file}: {error.strerror}") from error

    def _files(self, split: str, option: str) -> list[Path]:
        if self.path.is_dir():
            file = self.path / f"{split}{SUFFIX}"
            if not file.is_file():
                there = sorted(each.stem for each in self.path.glob(f"*{SUFFIX}"))
                known = f"it has {', '.join(there)}" if there else f"it has no {SUFFIX} file"
                raise UserError(f"{option}: {self.path} has no {file.name}; {known}")
            return [file]
        if self.path.suffix != SUFFIX:
            raise UserError(f"{option}: {self.path}: must be a {SUFFIX} file, a folder, or hf:NAME")
        found = [Path(name) for name in sorted(glob.glob(str(self.path)))]
        if not found:
            raise UserError(f"{option}: no such file {self.path}")
        return found


@dataclass(frozen=True)
class HubTaskSource:
    """A data set of the Hugging Face hub."""

    streamed: ClassVar[bool] = True
    name: str
    config: str

    def records(self, split: str, option: str) -> Iterator[Record]:
        """The examples of a split, in order, as they are streamed."""
        rows = hub_rows(self.name, split, self.config, option)
        for number, row in enumerate(rows):
            yield Record(dict(io.flat(row)), f"{PREFIX}{self.name}:{split} row {number}")


TaskSource = LocalSource | HubTaskSource


def source_of(text: str, folder: Path, option: str) -> TaskSource:
    """Where ``text`` says that examples are, seen from ``folder``.

    Raises:
        UserError: ``hf:`` with no name, or with too many parts.
    """
    if not text.startswith(PREFIX):
        return LocalSource(folder / text)
    name, *rest = text.removeprefix(PREFIX).split(":")
    if not name or len(rest) > 1 or "" in rest:
        raise UserError(f"{option}: source = {text!r}: must be hf:NAME or hf:NAME:CONFIG")
    return HubTaskSource(name, rest[0] if rest else "")


def _record(line: bytes, place: str, option: str) -> Record:
    fields = json_object(line.removeprefix(b"\xef\xbb\xbf"), f"{option}: {place}", '{"inputs": ..}')
    try:
        return Record(dict(io.flat(fields)), place)
    except RecursionError:
        raise UserError(f"{option}: {place}: nested too deeply") from None
