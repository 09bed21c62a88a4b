"""Manual pages in the ``man`` macros of roff to text; ``mdoc`` pages come out empty."""

import gzip
import io
import re

from turnout.data.fetch.clean.text import decode, join

_MAX_PAGE = 16 * 2**20
_CHARACTERS = {
    "aq": "'", "oq": "\u2018", "cq": "\u2019", "lq": "\u201c", "rq": "\u201d", "dq": '"',
    "em": "\u2014", "en": "\u2013", "hy": "-", "bu": "\u2022", "co": "\u00a9", "rg": "\u00ae",
    "ha": "^", "ti": "~", "rs": "\\", "ga": "`", "aa": "\u00b4", "mu": "\u00d7", "di": "\u00f7",
    "+-": "\u00b1", "->": "\u2192", "<-": "\u2190", "<=": "\u2264", ">=": "\u2265",
    "!=": "\u2260", "if": "\u221e", "mc": "\u00b5", "de": "\u00b0", "ss": "\u00df", "at": "@",
    "sh": "#", "Do": "$", "bs": "\\", "sl": "/", "ba": "|", "bv": "|", "or": "|", "lB": "[",
    "rB": "]", "lC": "{", "rC": "}", "la": "\u27e8", "ra": "\u27e9", "Fo": "\u00ab",
    "Fc": "\u00bb", "fo": "\u2039", "fc": "\u203a", "Bq": "\u201e", "bq": "\u201a",
    "12": "\u00bd", "14": "\u00bc", "34": "\u00be", "sc": "\u00a7", "dg": "\u2020",
    "R": "\u00ae", "Tm": "\u2122", "Eu": "\u20ac", "tm": "\u2122", "**": "*", "pl": "+",
    "mi": "-", "eq": "=", "ul": "_", "rn": "", "S": "", "*a": "\u03b1", "*b": "\u03b2",
    "*m": "\u03bc", "*p": "\u03c0",
}  # fmt: skip
_ACCENTS = {
    "'": "\u0301",
    "`": "\u0300",
    "^": "\u0302",
    ":": "\u0308",
    "~": "\u0303",
    ",": "\u0327",
}

_COMMENT = re.compile(r"\\[\"#].*$")
_ESCAPE = re.compile(
    r"""\\(?:
      \[u(?P<code>[0-9A-Fa-f]{4,6})\] | \((?P<two>..) | \[(?P<long>[^\]]+)\]
    | \*(?:\((?P<string>..)|\[(?P<strings>[^\]]+)\]|(?P<one>.))
    | [fFmMgkY](?:\(..|\[[^\]]*\]|.) | n[+-]?(?:\(..|\[[^\]]*\]|.)
    | s[+-]?(?:\([0-9][0-9]|\[[^\]]*\]|'[^']*'|[1-3][0-9]|[0-9]) | [hvwolLDbxNXZ]'[^']*'
    | (?P<plain>.) | $
    )""",
    re.VERBOSE,
)
_PLAIN = {"-": "-", "e": "\\", "~": " ", " ": " ", "0": " ", ".": ".", "'": "\u00b4", "`": "`"}
_PLAIN |= {"\\": "\\", "t": " ", "|": "", "^": "", "&": "", "/": "", ",": "", ")": "", "E": "\\"}

_BREAKS = frozenset({"PP", "P", "LP", "sp", "br", "RS", "RE", "HP", "TQ", "in", "ti", "SY", "YS"})
_FONTS = frozenset({"B", "I", "R", "SM", "SB"})
_ALTERNATING = frozenset({"BR", "RB", "IR", "RI", "BI", "IB"})
_LITERAL_ON = frozenset({"nf", "EX", "Vb"})
_LITERAL_OFF = frozenset({"fi", "EE", "Ve"})


def man(name: str, raw: bytes) -> str:
    """A manual page: sections, paragraphs joined to lines, examples as they are.

    Gives nothing for pages that only name another, and for ``mdoc`` ones. A page that inflates to
    more than 16 MiB is no manual page.
    """
    page = _Page()
    if name.endswith(".gz"):
        with gzip.GzipFile(fileobj=io.BytesIO(raw)) as packed:
            raw = packed.read(_MAX_PAGE + 1)
        if len(raw) > _MAX_PAGE:
            raise ValueError(f"{name}: inflates to more than {_MAX_PAGE} bytes")
    text = decode(raw).replace("\\\n", "")
    if re.search(r"^\.\s*(?:Dd|so)\s", text, re.MULTILINE):
        return ""
    for line in text.split("\n"):
        page.read(line)
    return page.result()


class _Page:
    """Reads lines one after the other; ``result`` is what they say."""

    def __init__(self) -> None:
        self._blocks: list[str] = []
        self._open = ""
        self._literal: list[str] | None = None
        self._until = ""
        self._depth = 0
        self._table = ""
        self._label = False

    def result(self) -> str:
        """The page's text: paragraphs divided by empty lines."""
        self._break()
        self._end_literal()
        return "\n\n".join(self._blocks)

    def read(self, line: str) -> None:
        """Take one line of the source, macro or text."""
        if self._skips(line):
            return
        if self._table and not line.startswith(".TE"):
            self._row(line)
        elif line[:1] in (".", "'"):
            word, _, rest = _COMMENT.sub("", line[1:]).strip().partition(" ")
            self._macro(word, rest.strip())
        elif self._literal is not None:
            self._literal.append(_plain(line).rstrip())
        elif not line.strip():
            self._break()
        else:
            self._say(_plain(line.strip()))

    def _skips(self, line: str) -> bool:
        """Inside a definition, or a conditional's braces."""
        if self._until:
            if line.strip() in (self._until, ".."):
                self._until = ""
            return True
        if self._depth:
            self._depth += line.count("\\{") - line.count("\\}")
            return True
        return False

    def _macro(self, word: str, rest: str) -> None:
        if word in ("SH", "SS"):
            self._break()
            self._end_literal()
            self._say(" ".join(_arguments(rest)))
            self._label = False
            if rest:
                self._break()
        elif word in ("TP", "IP", "It"):
            self._break()
            self._label = word == "TP"
            if word == "IP" and rest and self._literal is None:
                mark = _arguments(rest)[:1]
                self._say("-" if mark and len(mark[0]) < 2 else "".join(mark))
        elif word in _FONTS:
            self._text(" ".join(_arguments(rest)))
        elif word in _ALTERNATING:
            self._text("".join(_arguments(rest)))
        elif word in ("UR", "MT"):
            self._text("".join(_arguments(rest)[:1]))
        elif word in ("ie", "if", "el"):
            self._depth = max(0, rest.count("\\{") - rest.count("\\}"))
        else:
            self._layout(word)

    def _layout(self, word: str) -> None:
        """Requests that print nothing; those that are not known are left out."""
        if word in _LITERAL_ON:
            self._break()
            self._literal = []
        elif word in _LITERAL_OFF:
            self._end_literal()
        elif word in _BREAKS:
            if self._literal is None:
                self._break()
            else:
                self._literal.append("")
        elif word in ("de", "ig", "am", "de1"):
            self._until = ".."
        elif word == "TS":
            self._break()
            self._table = "format"
        elif word == "TE":
            self._table = ""
            self._break()

    def _text(self, text: str) -> None:
        if self._literal is None:
            self._say(text)
        else:
            self._literal.append(text)

    def _say(self, text: str) -> None:
        self._open = join(self._open, text.strip())
        if self._label and text.strip():
            self._label = False
            self._break()

    def _break(self) -> None:
        text = re.sub(r"[ \t]+", " ", self._open).strip()
        if text and text != "-":
            self._blocks.append(text)
        self._open = ""

    def _end_literal(self) -> None:
        if self._literal is not None:
            text = "\n".join(self._literal).strip("\n")
            if text.strip():
                self._blocks.append(text)
        self._literal = None

    def _row(self, line: str) -> None:
        if self._table == "format":
            self._table = "rows" if line.rstrip().endswith(".") else "format"
        elif line[:1] != "." and line.strip() not in ("T{", "T}", "_", "="):
            cells = (_plain(cell).strip() for cell in re.split(r"\t|T\{|T\}", line))
            self._say(" | ".join(cell for cell in cells if cell))
            if not line.rstrip().endswith("T{"):
                self._break()


def _arguments(text: str) -> list[str]:
    """A macro's arguments: words, or quoted ones."""
    found = re.findall(r'"((?:[^"]|"")*)"?|((?:\\ |[^\s"])(?:\\ |\S)*)', text)
    return [_plain(quoted.replace('""', '"') or bare) for quoted, bare in found]


def _plain(text: str) -> str:
    return _ESCAPE.sub(_escape, _COMMENT.sub("", text))


def _escape(found: re.Match[str]) -> str:
    if found["code"]:
        return chr(min(int(found["code"], 16), 0x10FFFF))
    name = found["two"] or found["long"]
    if name:
        return _character(name)
    string = found["string"] or found["strings"] or found["one"]
    if string:
        return _CHARACTERS.get(string, "'" if string == "Aq" else "")
    if found["plain"]:
        return _PLAIN.get(
            found["plain"], "" if found["plain"] in "acdprux%:{}!?" else found["plain"]
        )
    return ""


def _character(name: str) -> str:
    if name in _CHARACTERS:
        return _CHARACTERS[name]
    if len(name) == 2 and name[0] in _ACCENTS and name[1].isalpha():
        import unicodedata

        return unicodedata.normalize("NFC", name[1] + _ACCENTS[name[0]])
    return ""
