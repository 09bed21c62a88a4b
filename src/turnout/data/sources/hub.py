"""``hf:NAME[:SPLIT[:CONFIG]]``: a data set of the Hugging Face hub, streamed by ``datasets``."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from turnout.config.errors import UserError
from turnout.data.sources.base import Document, Source, field_document
from turnout.data.sources.jsonl import string_field

PREFIX = "hf:"
_LEAST = 4  # the first version of datasets that cannot run code of a data set


@dataclass(frozen=True)
class HubSource(Source):
    """One split of a data set. It is read once; what was read stays in the cache."""

    name: str
    split: str
    config: str
    field: str

    @staticmethod
    def of(path: str, field: str) -> "HubSource":
        """The source that a path names.

        Raises:
            UserError: the path has no name, or too many parts.
        """
        name, *rest = path.removeprefix(PREFIX).split(":")
        if not name or len(rest) > 2 or "" in rest:
            raise UserError(
                f"data.paths: {path!r}: must be hf:NAME, hf:NAME:SPLIT or hf:NAME:SPLIT:CONFIG"
            )
        split, config = [*rest, "", ""][:2]
        return HubSource(name, split or "train", config, field)

    @property
    def stamp(self) -> tuple[str, ...]:
        """See ``Source.stamp``; the hub is not asked whether its copy has changed."""
        return (f"hf {self.name} {self.split} {self.config}",)

    @property
    def total(self) -> int:
        """See ``Source.total``: unknown."""
        return 0

    def documents(self) -> Iterator[Document]:
        """See ``Source.documents``; no code of the data set is run."""
        rows = hub_rows(self.name, self.split, self.config, "data.paths")
        for number, row in enumerate(rows):
            where = f"{PREFIX}{self.name}:{self.split}, row {number}"
            value = row.get(self.field)
            if value is None and self.field in row:
                yield Document(where, b"", skipped="empty")
            else:
                text = string_field(value, self.field, list(row), where)
                yield field_document(text, f"{self.name}:{self.split}:{number}")


def hub_rows(name: str, split: str, config: str, option: str) -> Iterator[dict[str, Any]]:
    """The rows of one split of a data set, streamed; no code of the data set is run.

    Args:
        option: what named the data set; messages begin with it.

    Raises:
        UserError: the library is missing or too old, or the rows cannot be read.
    """
    library = _library(option)
    try:
        yield from library.load_dataset(name, config or None, split=split, streaming=True)
    except Exception as error:  # the library raises its own, the network's and others'
        reason = (str(error) or type(error).__name__).splitlines()[0][:160]
        raise UserError(f"{option}: {PREFIX}{name}:{split} cannot be read: {reason}") from error


def _library(option: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            f"{option}: {PREFIX} needs the library datasets; pip install 'datasets>={_LEAST}'"
        ) from error
    version = str(datasets.__version__)
    if int(version.split(".")[0]) < _LEAST:
        raise UserError(
            f"{option}: datasets {version} can run code that comes with a data set; "
            f"pip install 'datasets>={_LEAST}'"
        )
    return datasets
