"""The file: what it may load, where its text stands, and that nothing breaks out of there."""

import re
import sys
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

import pytest

from tests.probe.report.cases import HOSTILE, blocks, document, elements, frame, strings
from turnout.config.errors import UserError
from turnout.probe import report
from turnout.probe.report.page import html
from turnout.probe.report.text import line, shown

Runs = dict[str, Path]


@pytest.fixture(scope="module")
def plain(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report.write(runs["dense"], tmp_path_factory.mktemp("page") / "dense.html", bits={})


def test_everything_of_the_run_is_in_the_island(hostile: Path, plain: Path):
    # The page around the island is the same for every run: no text of a run can be in it.
    assert frame(hostile / "report.html") == frame(plain)


def test_the_policy_allows_what_is_there_and_nothing_else(plain: Path):
    found = elements(plain)
    (policy,) = [
        e.attributes["content"]
        for e in found
        if e.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    scripts = [e for e in found if e.name == "script" and "type" not in e.attributes]
    (style,) = [e for e in found if e.name == "style"]

    def hashes(texts: list[str]) -> str:
        digests = (b64encode(sha256(text.encode()).digest()).decode() for text in texts)
        return " ".join(f"'sha256-{digest}'" for digest in digests)

    assert rules == {
        "default-src": "'none'",
        "script-src": hashes([script.text for script in scripts]),
        "style-src": hashes([style.text]),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_nothing_names_an_address_to_fetch(plain: Path):
    for element in elements(plain):
        for name in ("src", "href", "action", "data", "srcset", "poster"):
            assert (element.attributes.get(name) or "#").startswith(("#", "data:,")), element
        assert not any(name.startswith("on") or name == "style" for name in element.attributes)
    own = plain.read_text().split('"use strict"')[1]
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|fetch\(|\beval\(", own
    )
    assert "@import" not in plain.read_text()
    assert "url(" not in next(e.text for e in elements(plain) if e.name == "style")


def test_it_is_of_a_reasonable_size(hostile: Path, plain: Path):
    assert plain.stat().st_size < 1_100_000
    assert (hostile / "report.html").stat().st_size < 1_300_000


def test_the_structure(plain: Path):
    found = elements(plain)
    assert found[0].attributes == {"lang": "en"}
    assert {"header", "nav", "main", "footer", "title"} <= {e.name for e in found}
    (island,) = [e for e in found if e.attributes.get("type") == "application/json"]
    assert island.text.isascii()
    assert "<" not in island.text
    for id_ in ("head", "contents", "content", "report"):
        assert [e for e in found if e.attributes.get("id") == id_]


def test_hostile_text_is_in_the_island_as_it_should_be_seen(hostile: Path):
    page = hostile / "report.html"
    first, second = blocks(page, "samples")[0]["items"]
    assert first == {"prompt": shown(HOSTILE), "text": shown(HOSTILE), "continued": True}
    assert second["text"].endswith("(10,000,000 characters, the first 4,000 are shown)")
    rows = blocks(page, "events")[0]["rows"]
    assert rows[0] == ["2", line(HOSTILE, 40), line(HOSTILE, 60), line(HOSTILE, 500)]
    assert rows[1][3].endswith("(10,000,000 characters, the first 500 are shown)")
    assert rows[2][:2] == ["5", "skip"]
    assert document(page)["title"] == "a<b>&'\"run"


def test_no_string_is_invisible_or_endless(hostile: Path):
    for text in strings(document(hostile / "report.html")):
        assert len(text) < 70_000
        assert not set(text) & set("\0\x1b\x7f\u2028\u2029\u202e\u2066\ud800")


def test_without_the_library_one_line_says_what_to_install(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setitem(sys.modules, "altair", None)
    for function in (report.write, report.write_pictures):
        with pytest.raises(UserError, match="turnout\\[pictures\\]"):
            function(runs["dense"], tmp_path / "x.html")
    with pytest.raises(UserError, match="turnout\\[pictures\\]"):
        report.compare([runs["dense"], runs["causal"]], tmp_path / "x.html")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_document_is_a_page():
    empty = {"title": "", "kind": "", "summary": "", "notices": [], "axes": [], "sections": []}
    assert html(empty).startswith("<!DOCTYPE html>")
