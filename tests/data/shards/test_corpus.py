"""Builds of the cache: used again, interrupted, shared, changed, damaged."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from turnout.config.errors import UserError
from turnout.config.tokenizers import TrainedConfig
from turnout.data.overlap import Overlap
from turnout.data.progress import Progress
from turnout.data.shards import tokens as shards
from turnout.data.shards.corpus import Corpus, Request, open_corpus
from turnout.data.side import Side
from turnout.data.tokenizers import ByteTokenizer

BYTES = ByteTokenizer()


class Told(Progress):
    """Keeps what it is told."""

    def __init__(self, hook: Callable[[str], None] = lambda what: None) -> None:
        self.work: list[str] = []
        self.notes: list[str] = []
        self.hook = hook

    def begin(self, what: str, total: int) -> None:
        self.work.append(what)
        self.hook(what)

    def advance(self, count: int) -> None:
        self.hook("advance")

    def end(self) -> None:
        self.hook("end")

    def note(self, line: str) -> None:
        self.notes.append(line)


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(20):
        lines = (f"document {number}, line {line}: naïve\n" for line in range(5 + number))
        (source / f"{number:02}.txt").write_text("".join(lines))
    return Request((str(source),), "text", 0.2, tmp_path / "cache", 2)


def source(request: Request) -> Path:
    return Path(request.paths[0])


def build(request: Request, progress: Told | None = None) -> Corpus:
    return open_corpus(request, BYTES, progress or Told())


def contents(side: Side) -> list[bytes]:
    return [bytes((side.document(i) - 3).astype(np.uint8)) for i in range(side.num_documents)]


def check(corpus: Corpus, request: Request) -> None:
    """The corpus is the text of its source."""
    texts = sorted(path.read_bytes() for path in source(request).iterdir())
    assert sorted([*corpus.train_text, *corpus.validation_text]) == texts
    assert contents(corpus.train) == list(corpus.train_text)
    assert contents(corpus.validation) == list(corpus.validation_text)


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def test_a_second_opening_does_no_work(request_: Request) -> None:
    first, again = Told(), Told()
    check(build(request_, first), request_)
    assert first.work == ["reading text", "tokenising", "comparing the two sides"]
    check(build(request_, again), request_)
    assert again.work == again.notes == first.notes == []


def test_the_manifest_says_what_was_made(request_: Request) -> None:
    corpus = build(request_)
    tokens = json.loads(only(corpus.text.folder, "tokens-*/manifest.json").read_text())
    text = json.loads((corpus.text.folder / "manifest.json").read_text())
    assert tokens["text"] == text["sha256"] == corpus.text.sha256
    assert tokens["tokenizer"] == BYTES.fingerprint
    assert tokens["tokens"] == text["bytes"] == corpus.text.num_bytes
    assert tokens["documents"] == text["documents"] == 20
    assert [len(entry["sha256"]) for entry in tokens["shards"]] == [64]


def test_shards_are_joined_without_a_seam(
    request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_TOKENS", 100)
    monkeypatch.setattr(shards, "_BATCH_BYTES", 256)
    corpus = build(request_)
    sizes = [len(shard) for shard in corpus.tokens.shards]
    assert set(sizes[:-1]) == {100} and 0 < sizes[-1] <= 100 and len(sizes) > 50
    check(corpus, request_)


def test_copies_are_left_out_and_counted(request_: Request) -> None:
    for name in ("a", "b"):
        (source(request_) / name).write_bytes((source(request_) / "03.txt").read_bytes())
    corpus = build(request_)
    assert corpus.text.num_documents == 20 and corpus.text.duplicates == 2
    size = (source(request_) / "03.txt").stat().st_size
    assert corpus.text.duplicate_bytes == 2 * size


def test_a_changed_source_is_noticed(request_: Request) -> None:
    before = build(request_)
    path = source(request_) / "03.txt"
    path.write_text(path.read_text().replace("naïve", "naive"))
    told = Told()
    after = build(request_, told)
    check(after, request_)
    (line,) = told.notes
    assert "has changed since it was tokenised" in line and after.text.sha256[:12] in line
    assert not before.text.folder.exists()


def test_a_touched_source_is_the_same_text(request_: Request) -> None:
    before = build(request_)
    os.utime(source(request_) / "03.txt", ns=(1, 1))
    told = Told()
    after = build(request_, told)
    assert told.work == ["reading text"] and told.notes == []
    assert after.text.sha256 == before.text.sha256
    again = Told()
    build(request_, again)
    assert again.work == []


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        ("text.bin", "text"),
        ("starts.bin", "text"),
        ("tokens-*/00000.bin", "tokens"),
        ("tokens-*/starts.bin", "tokens"),
    ],
)
@pytest.mark.parametrize("harm", ["flip", "cut", "gone"])
def test_damage_is_noticed_and_mended(
    request_: Request, pattern: str, what: str, harm: str
) -> None:
    path = only(build(request_).text.folder, pattern)
    raw, time = bytearray(path.read_bytes()), path.stat().st_mtime_ns
    raw[len(raw) // 2] ^= 1
    path.unlink()
    if harm != "gone":
        path.write_bytes(raw if harm == "flip" else raw[:-1])
        os.utime(path, ns=(time, time))
    told = Told()
    check(build(request_, told), request_)
    (line,) = told.notes
    assert f"cached {what}" in line and "damaged" in line and path.name in line
    again = Told()
    build(request_, again)
    assert again.work == again.notes == []


def test_a_foreign_manifest_is_damage(request_: Request) -> None:
    path = only(build(request_).text.folder, "tokens-*/manifest.json")
    table = json.loads(path.read_text())
    for text in ("{", json.dumps({**table, "format": 99}), json.dumps({**table, "shards": [1]})):
        path.write_text(text)
        told = Told()
        check(build(request_, told), request_)
        assert "tokenising" in told.work


def test_large_files_are_hashed_only_when_asked_or_changed(
    request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnout.data.shards.files._ALWAYS_HASHED", 0)
    path = only(build(request_).text.folder, "tokens-*/00000.bin")
    raw, time = bytearray(path.read_bytes()), path.stat().st_mtime_ns
    raw[0] ^= 1
    path.write_bytes(raw)
    os.utime(path, ns=(time, time))
    trusting, thorough = Told(), Told()
    build(request_, trusting)
    assert trusting.notes == []
    build(replace(request_, thorough=True), thorough)
    assert "00000.bin is not what was written" in thorough.notes[0]


def test_an_error_leaves_the_old_text_alone(request_: Request) -> None:
    build(request_)
    bad = source(request_) / "bad.jsonl"
    bad.write_text("{")
    with pytest.raises(UserError, match="line 1: not JSON"):
        build(request_)
    bad.unlink()
    told = Told()
    check(build(request_, told), request_)
    assert told.notes == []


def test_a_document_alone_is_cut_before_it_is_tokenised(tmp_path: Path) -> None:
    path = tmp_path / "one"
    path.write_bytes(b"a line of text\n" * 100)
    request = Request((str(path),), "text", 0.2, tmp_path / "cache")
    corpus = build(request)
    assert contents(corpus.validation) == [b"a line of text\n" * 20]
    other = build(replace(request, validation_share=0.1))
    assert contents(other.validation) == [b"a line of text\n" * 10]
    # 50 bytes fit at every place of 300 but the last 49, and the lines before are the same.
    assert corpus.overlap == Overlap(300 - 49, 300 - 49)


def test_overlap_counts_what_both_sides_hold(tmp_path: Path) -> None:
    shared = bytes(range(32, 112))  # 80 bytes: 31 places for 50
    rng = np.random.default_rng(0)
    documents = [rng.integers(97, 122, 300, dtype=np.uint8).tobytes() for _ in range(10)]
    for number, document in enumerate(documents):
        (tmp_path / str(number)).write_bytes(document + shared if number < 2 else document)
    apart = []
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        request = Request((str(tmp_path),), "text", share, tmp_path.parent / f"cache-{share}")
        corpus = build(request)
        holders = [document for document in corpus.validation_text if shared in document]
        apart.append(len(holders) == 1)
        asked = sum(len(document) - 49 for document in corpus.validation_text)
        assert corpus.overlap == Overlap(asked, 31 if apart[-1] else 0)
    assert any(apart) and not all(apart)


def test_a_learnt_vocabulary_is_kept_and_mended(request_: Request) -> None:
    config = TrainedConfig(400)
    first, again, mended = Told(), Told(), Told()
    one = open_corpus(request_, config, first)
    assert "learning the vocabulary" in first.work and one.tokens.aligned
    assert open_corpus(request_, config, again).tokenizer == one.tokenizer
    assert again.work == []
    only(one.text.folder, "learnt-*/model.bin").write_bytes(b"x")
    assert open_corpus(request_, config, mended).tokenizer == one.tokenizer
    assert "learnt vocabulary is damaged" in mended.notes[0]
    assert len(list(one.text.folder.glob("tokens-*"))) == 1


BUILDER = """
import os, signal, sys, time
from pathlib import Path
from turnout.data.progress import Silent
from turnout.data.shards import corpus, tokens
from turnout.data.tokenizers import ByteTokenizer
tokens._BATCH_BYTES = 256
path, cache, kill_at, pause = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
class Counting(Silent):
    done = 0
    def __init__(self):
        self.work = []
    def begin(self, what, total):
        self.work.append(what)
        self.step()
    def advance(self, count):
        self.step()
    def end(self):
        self.step()
    def note(self, line):
        print(line, flush=True)
    def step(self):
        self.done += 1
        if self.done == 1:
            print("begun", flush=True)
        time.sleep(pause)
        if self.done == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
counting = Counting()
request = corpus.Request((path,), "text", 0.2, Path(cache))
made = corpus.open_corpus(request, ByteTokenizer(), counting)
print(counting.done, ",".join(counting.work), made.text.sha256, flush=True)
"""


def start(request: Request, kill_at: int, pause: float = 0.0) -> "subprocess.Popen[str]":
    arguments = [request.paths[0], str(request.cache), str(kill_at), str(pause)]
    return subprocess.Popen(
        [sys.executable, "-c", BUILDER, *arguments], stdout=subprocess.PIPE, text=True
    )


def test_a_killed_build_leaves_nothing_that_counts(request_: Request) -> None:
    whole = start(replace(request_, cache=request_.cache / "whole"), kill_at=0)
    steps = int(whole.communicate(timeout=60)[0].splitlines()[-1].split()[0])
    assert steps > 40
    for kill_at in np.linspace(1, steps, 6, dtype=int).tolist():
        request = replace(request_, cache=request_.cache / str(kill_at))
        killed = start(request, kill_at)
        killed.communicate(timeout=60)
        assert killed.returncode == -signal.SIGKILL
        told = Told()
        check(build(request, told), request_)
        assert told.notes == []
        assert "comparing the two sides" in told.work


def test_two_builders_at_once(request_: Request) -> None:
    first = start(request_, kill_at=0, pause=0.02)
    assert first.stdout is not None
    assert first.stdout.readline() == "begun\n"
    told = Told()
    check(build(request_, told), request_)
    (line,) = told.notes
    assert "another process prepares this text" in line
    assert told.work == []
    first.communicate(timeout=60)
    assert first.returncode == 0


def test_the_lock_of_a_dead_builder_is_taken_over(request_: Request) -> None:
    dying = start(request_, kill_at=30, pause=0.02)
    assert dying.stdout is not None
    assert dying.stdout.readline() == "begun\n"
    told = Told()
    check(build(request_, told), request_)
    assert told.work[0] in ("reading text", "tokenising")
    dying.communicate(timeout=60)
    assert dying.returncode == -signal.SIGKILL
