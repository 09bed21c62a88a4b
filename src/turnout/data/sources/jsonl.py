"""``.jsonl``: one JSON object a line, one of its fields the text of a document."""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from turnout.config.errors import UserError, nearest
from turnout.data.sources.base import Document, field_document, unreadable


def json_lines(path: Path, name: str, field: str) -> Iterator[Document]:
    """The documents of a file; blank lines are passed over.

    Raises:
        UserError: a line that is no JSON object with a string in ``field``, with its number.
    """
    try:
        with path.open("rb") as lines:
            for number, raw in enumerate(lines, 1):
                line = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
                if line.strip():
                    text = _text(line, field, f"{path}, line {number}")
                    yield field_document(text, f"{name}:{number}")
    except OSError as error:
        raise unreadable(path, error) from error


def _text(line: bytes, field: str, where: str) -> str:
    entry = json_object(line, f"data.paths: {where}", f"{{{field!r}: ..}}")
    return string_field(entry.get(field), field, list(entry), where)


def json_object(line: bytes, where: str, example: str) -> dict[str, Any]:
    """The object that a line holds.

    Args:
        where: the beginning of a message.
        example: of what should stand there.

    Raises:
        UserError: the line is no JSON, or no object.
    """
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:  # bytes that are not UTF-8 are a ValueError too
        raise UserError(f"{where}: not JSON ({_reason(error)}); mend or remove the line") from error
    if not isinstance(entry, dict):
        raise UserError(
            f"{where}: must be a JSON object such as {example}, not {type(entry).__name__}"
        )
    return entry


def string_field(value: object, field: str, names: list[str], where: str) -> str:
    """``value`` if it is a string.

    Raises:
        UserError: it is none; the message names the fields that there are.
    """
    if isinstance(value, str):
        return value
    if field in names:
        found = type(value).__name__
        raise UserError(f"data.paths: {where}: the field {field!r} holds {found}, not a string")
    known = nearest(field, (name[:40] for name in names[:20])) if names else "it has no field"
    raise UserError(
        f"data.paths: {where}: no field {field!r}; {known}; name the one with the text by "
        "--data.text-field"
    )


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start + 1} is not UTF-8"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)[:60]
