"""``.parquet`` files, one row a document; needs pyarrow."""

from collections.abc import Iterator
from pathlib import Path

from turnout.config.errors import UserError
from turnout.data.sources.base import Document, field_document, unreadable
from turnout.data.sources.jsonl import string_field

_ROWS = 256


def parquet_rows(path: Path, name: str, field: str) -> Iterator[Document]:
    """The documents of a file; rows without a value are skipped.

    Raises:
        UserError: pyarrow is not installed, the file is damaged, or the field holds no strings.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(
            f"data.paths: reading {str(path)!r} needs pyarrow; pip install pyarrow"
        ) from error
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if field not in names:
                string_field(None, field, names, str(path))
            for batch in file.iter_batches(batch_size=_ROWS, columns=[field]):
                for value in batch.column(0).to_pylist():
                    number += 1
                    yield _row(value, field, name, number, path)
    except pyarrow.ArrowException as error:
        reason = str(error).splitlines()[0][:100]
        raise UserError(
            f"data.paths: {str(path)!r} cannot be read as parquet behind row {number}: {reason}"
        ) from error
    except OSError as error:
        raise unreadable(path, error) from error


def _row(value: object, field: str, name: str, number: int, path: Path) -> Document:
    if value is None:
        return Document(f"{name}:{number}", b"", skipped="empty")
    text = string_field(value, field, [field], f"{path}, row {number}")
    return field_document(text, f"{name}:{number}")
