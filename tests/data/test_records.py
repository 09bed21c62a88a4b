"""Sources of records: ``.jsonl``, ``.parquet``, ``hf:``; and globs."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from turnout.config.errors import UserError
from turnout.data.sources import Document, open_sources, read


def lines(path: Path, *entries: bytes) -> str:
    path.write_bytes(b"\n".join(entries))
    return str(path)


def texts(*paths: str, field: str = "text") -> list[bytes]:
    return [document.text for document in read(paths, field) if not document.skipped]


def test_a_document_a_line(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "a.jsonl",
        b'\xef\xbb\xbf{"text": "first", "id": 1}',
        b"",
        b"   ",
        b'{"text": "na\\u00efve\\nsecond"}',
        b'{"text": ""}',
        b'{"text": "half a pair \\ud800!"}\r',
    )
    assert list(read((path,))) == [
        Document("a.jsonl:1", b"first"),
        Document("a.jsonl:4", "naïve\nsecond".encode()),
        Document("a.jsonl:5", b"", skipped="empty"),
        Document("a.jsonl:6", "half a pair \ufffd!".encode(), replaced=True),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "cut off', r"line 2: not JSON \(.* at column .*\); mend or remove"),
        (b'{"text": "\xff"}', r"line 2: not JSON \(byte 11 is not UTF-8\)"),
        (b"[" * 100_000, r"line 2: not JSON \(nested too deeply\)"),
        (b'["text"]', r"line 2: must be a JSON object such as .*, not list"),
        (
            b'{"texts": "x"}',
            r"line 2: no field 'text'; did you mean 'texts'\?; .*--data.text-field",
        ),
        (b"{}", r"line 2: no field 'text'; it has no field"),
        (b'{"text": 7}', r"line 2: the field 'text' holds int, not a string"),
        (b'{"text": null}', r"line 2: the field 'text' holds NoneType"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = lines(tmp_path / "a.jsonl", b'{"text": "fine"}', line, b'{"text": "fine"}')
    with pytest.raises(UserError, match=message) as error:
        texts(path)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="line 2"):
        texts(str(tmp_path))


def test_another_field_and_a_long_line(tmp_path: Path) -> None:
    long = "x" * 10_000_000
    path = lines(tmp_path / "a.jsonl", json.dumps({"content": long, "text": "no"}).encode())
    assert texts(path, field="content") == [long.encode()]


def test_records_without_text(tmp_path: Path) -> None:
    for name, entries in (("none", ()), ("blank", (b"", b" ")), ("empty", (b'{"text": ""}',))):
        path = lines(tmp_path / f"{name}.jsonl", *entries)
        with pytest.raises(UserError, match=f"{name}.jsonl' holds no text"):
            texts(path)


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    values = [f"document {number}" for number in range(600)]
    parquet.write_table(pyarrow.table({"body": [*values, None, ""], "id": range(602)}), path)
    assert texts(str(path), field="body") == [value.encode() for value in values]
    with pytest.raises(UserError, match=r"a.parquet: no field 'text'; known: body, id"):
        texts(str(path))
    with pytest.raises(UserError, match=r"row 1: the field 'id' holds int, not a string"):
        texts(str(path), field="id")
    raw = path.read_bytes()
    path.write_bytes(raw[:-20])
    with pytest.raises(UserError, match=r"cannot be read as parquet behind row 0") as error:
        texts(str(path), field="body")
    assert "\n" not in str(error.value)


def test_parquet_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"needs pyarrow; pip install pyarrow"):
        texts(str(tmp_path / "a.parquet"))


def test_globs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("a.txt", "b.txt", "c.md", "deep/d.txt", "deep/er/e.txt", "[f].txt"):
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    assert texts("?.txt") == [b"a.txt", b"b.txt"]
    assert texts("**/*.txt") == [
        *(b"[f].txt", b"a.txt", b"b.txt", b"deep/d.txt", b"deep/er/e.txt"),
    ]
    assert texts("dee*") == [b"deep/d.txt", b"deep/er/e.txt"]
    assert texts("[f].txt") == [b"[f].txt"]
    with pytest.raises(UserError, match=r"no file matches '\*.py'; relative paths start at"):
        texts("*.py")


def test_a_file_that_vanishes(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "c.jsonl"):
        (tmp_path / name).write_text('{"text": "x"}')
    documents = read((str(tmp_path),))
    assert next(documents).name == "a.txt"
    (tmp_path / "b.txt").unlink()
    with pytest.raises(UserError, match=r"cannot read .*b.txt': No such file"):
        list(documents)
    stamped = open_sources((str(tmp_path / "a.txt"),))
    (tmp_path / "a.txt").unlink()
    with pytest.raises(UserError, match=r"cannot read .*a.txt': No such file"):
        _ = stamped.stamp


def fake_library(monkeypatch: pytest.MonkeyPatch, version: str, rows: Any) -> list[Any]:
    """A stand-in for ``datasets``; returns what it was asked for."""
    asked: list[Any] = []
    library = ModuleType("datasets")

    def load_dataset(*arguments: Any, **named: Any) -> Any:
        asked.append((arguments, named))
        if isinstance(rows, Exception):
            raise rows
        return iter(rows)

    library.__version__ = version
    library.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", library)
    return asked


def test_a_data_set_of_the_hub_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = fake_library(monkeypatch, "5.2.0", [{"text": "one"}, {"text": None}, {"text": "two"}])
    assert texts("hf:org/name:test:small") == [b"one", b"two"]
    assert asked == [(("org/name", "small"), {"split": "test", "streaming": True})]
    assert texts("hf:name") == [b"one", b"two"]
    assert asked[1] == (("name", None), {"split": "train", "streaming": True})


def test_what_can_go_wrong_with_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("hf:", "hf:a:b:c:d", "hf:a::c"):
        with pytest.raises(UserError, match="must be hf:NAME, hf:NAME:SPLIT"):
            texts(path)
    fake_library(monkeypatch, "3.6.0", [])
    with pytest.raises(UserError, match=r"datasets 3\.6\.0 can run code that comes with"):
        texts("hf:name")
    fake_library(monkeypatch, "5.2.0", ConnectionError("no route\nto host"))
    with pytest.raises(UserError, match=r"hf:name:train cannot be read: no route$"):
        texts("hf:name")
    fake_library(monkeypatch, "5.2.0", [{"content": "x"}])
    with pytest.raises(UserError, match=r"row 0: no field 'text'; did you mean 'content'"):
        texts("hf:name")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="needs the library datasets; pip install"):
        texts("hf:name")
