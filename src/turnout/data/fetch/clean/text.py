"""What every cleaner shares: decoding, tidying, and joining lines that were wrapped by hand."""

import re

_CHARSET = re.compile(rb"charset=[\"']?([A-Za-z0-9_-]{3,20})")
_HEAD = 2048

_NEWLINES = re.compile("\r\n?|[\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029]")
# Control characters but tab and newline, lone surrogates, and marks that print nothing.
_NOTHING = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufeff\u00ad\u200b]")
_BLANK_LINES = re.compile(r"\n{3,}")

_BULLET = re.compile(r"(?:[-*+•]|\(?[0-9]{1,3}[.)]|\(?[a-z][.)]|#\.)\s+")
# Columns, rules and tables: lines whose breaks mean something.
_SHAPED = re.compile(r"[^\s.!?:;,\"')] {2,}\S|\t| \| |^\W{4,}$", re.MULTILINE)
_MIN_WIDTH = 64
_SLACK = 0.85


def decode(raw: bytes) -> str:
    """UTF-8 where it is, else the character set that the text declares, else Latin-1."""
    declared = _CHARSET.search(raw[:_HEAD])
    for name in ("utf-8", declared[1].decode() if declared else "latin-1"):
        try:
            return raw.decode(name)
        except (UnicodeDecodeError, LookupError):
            continue
    return raw.decode("latin-1")


def tidy(text: str) -> str:
    """No control characters, no blanks at line ends, no runs of empty lines. Idempotent."""
    text = _NOTHING.sub("", _NEWLINES.sub("\n", text)).replace("\xa0", " ")
    lines = (line.rstrip() for line in text.split("\n"))
    return _BLANK_LINES.sub("\n\n", "\n".join(lines)).strip("\n")


def join(left: str, right: str) -> str:
    """Two parts of a sentence; between two characters of a script without spaces, none is put."""
    if not left or not right:
        return left or right
    return left + ("" if _dense(left[-1]) and _dense(right[0]) else " ") + right


def unwrap(text: str) -> str:
    """Join the lines of paragraphs that were wrapped by hand; verse, code and tables stay.

    A break is taken for wrapping where the next line's first word would hardly have fitted into
    the widest line of the paragraph. Paragraphs are divided by empty lines.
    """
    return "\n\n".join(unwrap_paragraph(paragraph) for paragraph in text.split("\n\n"))


def unwrap_paragraph(paragraph: str) -> str:
    """``unwrap`` of one paragraph."""
    lines = paragraph.split("\n")
    if len(lines) < 2 or _SHAPED.search(paragraph):
        return paragraph
    width = _SLACK * max(_MIN_WIDTH, *map(len, lines))
    done = [lines[0]]
    margins = {_indent(lines[1]), *_margins(lines[0])}  # a first line may stand out either way
    last = lines[0]
    for line in lines[1:]:
        fits = len(last) + 1 + len((line.split() or [""])[0]) <= width
        starts = _BULLET.match(line.lstrip()) is not None
        if fits or starts or _indent(line) not in margins:
            done.append(line)
            margins = _margins(line)
        else:
            done[-1] = join(done[-1], line.strip())
        last = line
    return "\n".join(done)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _margins(line: str) -> set[int]:
    """Where a line that continues this one may start: below it, or below what follows a bullet."""
    bullet = _BULLET.match(line.lstrip())
    return {_indent(line), _indent(line) + (bullet.end() if bullet else 0)}


def _dense(character: str) -> bool:
    """Chinese and Japanese; Korean writes spaces."""
    return "\u2e80" <= character <= "\u9fff" or "\uf900" <= character <= "\uffef"
