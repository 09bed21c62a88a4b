"""HTML documentation to text, by the parser of the standard library and a table of what to skip."""

import re
from dataclasses import dataclass
from html.parser import HTMLParser

from turnout.data.fetch.clean.text import decode, unwrap

_VOID = frozenset(
    [
        "area",
        "base",
        "br",
        "col",
        "embed",
        "hr",
        "img",
        "input",
        "link",
        "meta",
        "source",
        "track",
        "wbr",
    ]
)
_SKIPPED = frozenset(
    [
        "head",
        "script",
        "style",
        "noscript",
        "nav",
        "header",
        "footer",
        "aside",
        "button",
        "form",
        "svg",
        "select",
    ]
)
_BLOCKS = frozenset(
    [
        "p",
        "div",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "ul",
        "ol",
        "li",
        "dl",
        "dt",
        "dd",
        "table",
        "caption",
        "tr",
        "pre",
        "blockquote",
        "section",
        "article",
        "main",
        "hr",
        "figure",
        "figcaption",
        "summary",
        "details",
    ]
)
_CELLS = frozenset({"td", "th"})
_CELL = "\x1f"
_MARKED = re.compile(r"<!\[[^<>]*>")
_SPACE = re.compile(r"\s+")
_SPACES = re.compile(r"[ \t]+")


@dataclass(frozen=True)
class Rules:
    """What of a page is text.

    Attributes:
        root: the tag name or the id of the element that holds it; empty for the whole page.
        classes: elements of these classes are left out.
        ids: elements with these ids are left out.
    """

    root: str = ""
    classes: frozenset[str] = frozenset()
    ids: frozenset[str] = frozenset()


def text_of(page: str, rules: Rules) -> str:
    """The text of a page: paragraphs divided by empty lines, table rows as ``a | b``."""
    reader = _Reader(rules)
    # The parser stops at a marked section that it does not know; none holds text.
    reader.feed(_MARKED.sub("", page).replace("<![", "&lt;!["))
    reader.close()
    return reader.result()


class _Reader(HTMLParser):
    """Collects blocks; elements that are skipped are followed by counting their own tag alone."""

    def __init__(self, rules: Rules) -> None:
        super().__init__(convert_charrefs=True)
        self._rules = rules
        self._inside = not rules.root
        self._root_tag = ""
        self._root_depth = 0
        self._skip_tag = ""
        self._skip_depth = 0
        self._pre = 0
        self._cells = 0
        self._mark = ""
        self._buffer: list[str] = []
        self._blocks: list[tuple[bool, str]] = []

    def result(self) -> str:
        self._flush()
        text = ""
        previous = False
        for item, block in self._blocks:
            gap = "\n" if item and previous else "\n\n"
            text += (gap if text else "") + block
            previous = item
        return text

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._skip_tag:
            self._skip_depth += tag == self._skip_tag
            return
        if not self._inside:
            self._enter(tag, attrs)
            return
        if self._is_skipped(tag, attrs):
            if tag not in _VOID:
                self._skip_tag, self._skip_depth = tag, 1
            return
        self._root_depth += tag == self._root_tag
        self._open(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._skip_tag:
            self._skip_depth -= tag == self._skip_tag
            if not self._skip_depth:
                self._skip_tag = ""
            return
        if not self._inside:
            return
        self._close(tag)
        if tag == self._root_tag:
            self._root_depth -= 1
            if not self._root_depth:
                self._flush()
                self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside and not self._skip_tag:
            data = data.replace(_CELL, "")
            self._buffer.append(data if self._pre else _SPACE.sub(" ", data))

    def _enter(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == self._rules.root or ("id", self._rules.root) in attrs:
            self._inside, self._root_tag, self._root_depth = True, tag, 1

    def _is_skipped(self, tag: str, attrs: list[tuple[str, str | None]]) -> bool:
        if tag in _SKIPPED:
            return True
        for name, value in attrs:
            if name == "class" and value and not self._rules.classes.isdisjoint(value.split()):
                return True
            if name == "id" and value in self._rules.ids:
                return True
        return False

    def _open(self, tag: str) -> None:
        if tag == "br":
            self._buffer.append("\n")
        elif tag in _CELLS:
            self._cells += 1
            self._buffer.append(_CELL)
        elif tag in _BLOCKS:
            self._break(tag)
            if tag == "li":
                self._mark = "- "
            self._pre += tag == "pre"

    def _close(self, tag: str) -> None:
        if tag in _CELLS:
            self._cells = max(0, self._cells - 1)
        elif tag in _BLOCKS:
            self._break(tag)
            if tag == "li":
                self._mark = ""
            if tag == "pre":
                self._pre = max(0, self._pre - 1)

    def _break(self, tag: str) -> None:
        """A block inside a table cell is a space, so that a row stays a line."""
        if tag in ("tr", "table"):
            self._cells = 0
        if self._cells and tag != "pre":
            self._buffer.append(" ")
        else:
            self._flush()

    def _flush(self) -> None:
        text = "".join(self._buffer)
        self._buffer.clear()
        together = bool(self._mark)
        if self._pre:
            text = text.replace(_CELL, "").strip("\n").rstrip()
        else:
            cells = [_line(cell) for cell in text.split(_CELL)]
            together = together or len(cells) > 1
            text = " | ".join(cell for cell in cells if cell)
        if text:
            self._blocks.append((together, self._mark + text))
            self._mark = ""


def _line(text: str) -> str:
    lines = (_SPACES.sub(" ", line).strip() for line in text.split("\n"))
    return "\n".join(line for line in lines if line)


_LIBREOFFICE = Rules(root="DisplayArea", classes=frozenset({"MAC", "noteicon", "relatedtopics"}))
_DOCBOOK = Rules(
    classes=frozenset({"navheader", "navfooter", "toc", "indexterm", "footnote", "index"})
)
_MDBOOK = Rules(root="main", classes=frozenset({"buttons", "nav-wrapper"}))
_ASCIIDOC = Rules(root="content", ids=frozenset({"footer"}))
_CPPREFERENCE = Rules(
    root="content",
    classes=frozenset(
        {"t-navbar", "t-template-editlink", "printfooter", "catlinks", "editsection", "toc"}
        | {"t-example-live-link", "coliru-btn"}
    ),
    ids=frozenset({"siteSub", "contentSub", "toc", "jump-to-nav", "mw-js-message"}),
)


def libreoffice(name: str, raw: bytes) -> str:
    """LibreOffice help: the display area, in the words for systems other than macOS."""
    return text_of(decode(raw), _LIBREOFFICE)


def docbook(name: str, raw: bytes) -> str:
    """DocBook pages, without navigation, contents and footnotes."""
    return text_of(decode(raw), _DOCBOOK)


def mdbook(name: str, raw: bytes) -> str:
    """mdBook chapters; a page that only leads elsewhere has no ``main`` and comes out empty."""
    return text_of(decode(raw), _MDBOOK)


def asciidoc(name: str, raw: bytes) -> str:
    """AsciiDoc pages."""
    return text_of(decode(raw), _ASCIIDOC)


def cppreference(name: str, raw: bytes) -> str:
    """cppreference.com pages, without the bars of links."""
    return text_of(decode(raw), _CPPREFERENCE)


_VIM_TAG = re.compile(r"\*[^*\s]+\*")
_VIM_LINK = re.compile(r"\|([^|\s]+)\|")
_VIM_NOISE = re.compile(
    r"^(=+|-{20,}|main help file|top - main help file|Vim documentation: .*|.*Last change: .*"
    r"|\s*vim:.*|Generated by vim2html.*|Copyright: see \S+|\s*(Next chapter|Previous chapter|"
    r"Table of contents): .*|\s*VIM (REFERENCE|USER) MANUAL.*|\s*Type .* to (jump|see).*)$"
)


def vim(name: str, raw: bytes) -> str:
    """Vim's help, which is text in columns inside one ``pre``."""
    text = text_of(decode(raw), Rules())
    lines = []
    for line in text.split("\n"):
        bare = _VIM_TAG.sub("", line)
        if not _VIM_NOISE.match(bare.rstrip()):
            lines.append(_VIM_LINK.sub(r"\1", bare).rstrip())
    return unwrap("\n".join(lines))
