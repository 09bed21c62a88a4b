import os
from collections import Counter
from pathlib import Path

import pytest

from turnout.config.errors import UserError
from turnout.data.progress import Silent
from turnout.data.shards.text import Text, build_text, open_text
from turnout.data.sources import Document, in_words, open_sources, read


def write(path: Path, content: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


def kept(*paths: str) -> list[Document]:
    return [document for document in read(paths) if not document.skipped]


def text_of(folder: Path, *paths: str) -> Text:
    folder.mkdir()
    build_text(open_sources(paths), folder, Silent())
    return open_text(folder)


def test_folder_is_read_in_order_and_skips_are_counted(tmp_path: Path) -> None:
    write(tmp_path / "b.txt", b"second")
    write(tmp_path / "a" / "z.txt", b"first")
    write(tmp_path / "c.md", "naïve".encode())
    write(tmp_path / ".hidden", b"secret")
    write(tmp_path / ".git" / "config", b"secret")
    write(tmp_path / "image.bin", b"\x89PNG\0\0")
    write(tmp_path / "noise", bytes(range(128, 256)))
    write(tmp_path / "empty", b"")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    documents = kept(str(tmp_path))
    assert [document.name for document in documents] == ["a/z.txt", "b.txt", "c.md"]
    assert [document.text for document in documents] == [b"first", b"second", "naïve".encode()]
    skipped = Counter(document.skipped for document in read((str(tmp_path),)))
    assert skipped == {
        "": 3,
        "hidden": 2,
        "binary": 1,
        "not UTF-8": 1,
        "empty": 1,
        "no plain file": 2,
    }


def test_a_few_bytes_that_are_not_utf8_are_repaired(tmp_path: Path) -> None:
    # One byte of Latin-1 in 40: below the tenth from which a file counts as no text.
    path = write(tmp_path / "latin.txt", b"x" * 39 + b"\xe9")
    assert kept(path) == [Document("latin.txt", b"x" * 39 + "\ufffd".encode(), replaced=True)]


def test_hash_covers_names_and_contents_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "one" / "a", b"text")
    write(tmp_path / "two" / "a", b"text")
    write(tmp_path / "renamed" / "b", b"text")
    write(tmp_path / "moved" / "at", b"ext")
    hashes = {
        name: text_of(tmp_path / f"built-{name}", str(tmp_path / name)).sha256
        for name in ("one", "two", "renamed", "moved")
    }
    assert hashes["one"] == hashes["two"]
    assert len(set(hashes.values())) == 3


def test_the_same_path_twice_is_read_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"text")
    assert [document.text for document in read((path, path))] == [b"text"]


def test_one_byte_is_a_document(tmp_path: Path) -> None:
    assert kept(write(tmp_path / "a", b"x")) == [Document("a", b"x")]


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "is empty"), (b"\0\1", "is binary"), (b"\xff\xfe", "not UTF-8")]
)
def test_a_named_file_is_never_skipped(tmp_path: Path, content: bytes, reason: str) -> None:
    path = write(tmp_path / "file", content)
    with pytest.raises(UserError, match=f"file' .*{reason}; give a file of UTF-8 text"):
        kept(path)


def test_missing_path_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path / "corpus.txt", b"text")
    with pytest.raises(UserError, match=r"no such file or folder .*did you mean '.*corpus\.txt'"):
        kept(str(tmp_path / "corpsu.txt"))
    with pytest.raises(UserError, match="relative paths start at"):
        kept(str(tmp_path / "nowhere" / "x"))


def test_folders_without_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no text in folder .*: no file at all; give"):
        kept(str(tmp_path))
    write(tmp_path / "a", b"\0")
    write(tmp_path / ".b", b"x")
    with pytest.raises(UserError, match=r"no text in folder .*: 1 binary, 1 hidden; give"):
        kept(str(tmp_path))


def test_unreadable_file_and_odd_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="is no plain file"):
        kept(str(tmp_path / "pipe"))
    path = write(tmp_path / "locked", b"x")

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    # Root may read everything, so permissions alone would not show it.
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UserError, match=r"cannot read .*locked': Permission denied; check"):
        kept(path)


def test_every_error_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        kept(str(tmp_path / "a\nb"))
    assert "\n" not in str(error.value)


def test_the_standard_library_is_the_default() -> None:
    names = [document.name for document in kept()]
    assert 5e6 < open_sources().total < 3e7
    assert "ast.py" in names and "json/decoder.py" in names
    assert not any("test" in name.split("/") or "tests" in name.split("/") for name in names)
    assert names == sorted(names)
    assert open_sources().origin.startswith("the standard library of Python 3.")


def test_many_paths_are_counted_not_listed():
    assert in_words(("a",)) == "a"
    assert in_words(("a", "b", "a", "c", "d")) == "a, b, c, d"
    assert in_words(("a", "b", "c", "d", "e")) == "a, b, c and 2 more"
