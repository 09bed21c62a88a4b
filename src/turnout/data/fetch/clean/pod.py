"""POD, the markup of Perl's documentation, to text."""

import re
from html.entities import html5

_FENCED = re.compile(r"([A-Z])<<+\s+(.+?)\s+>>+", re.DOTALL)
_SIMPLE = re.compile(r"([A-Z])<([^<>]*)>")
_NAMED = {"lt": "<", "gt": ">", "sol": "/", "verbar": "|"}
# A bracket that was written as an escape must not close a code around it.
_HELD = str.maketrans({"<": "\ue000", ">": "\ue001"})
_FREED = str.maketrans({"\ue000": "<", "\ue001": ">"})


def pod(name: str, raw: bytes) -> str:
    """Headings, paragraphs joined to lines, and verbatim blocks as they are."""
    out = []
    reading, skipping = False, False
    for paragraph in re.split(r"\n[ \t]*\n", raw.decode(errors="replace")):
        paragraph = paragraph.strip("\n")
        if not paragraph.strip():
            continue
        if re.match(r"=[a-z]", paragraph):
            command, _, rest = paragraph[1:].partition(" ")
            word = command.split()[0]
            reading = word != "cut"
            skipping = word == "begin" or (skipping and word != "end")
            if word.startswith(("head", "item")) and not skipping:
                out.append(_inline(_one_line(rest)).lstrip("*").strip())
        elif reading and not skipping:
            verbatim = paragraph[0] in " \t"
            out.append(paragraph.expandtabs() if verbatim else _inline(_one_line(paragraph)))
    return "\n\n".join(paragraph for paragraph in out if paragraph.strip())


def _one_line(paragraph: str) -> str:
    return " ".join(paragraph.split())


def _inline(text: str) -> str:
    """Take formatting codes away, from the innermost out."""
    text = _FENCED.sub(lambda found: _code(found[1], found[2].translate(_HELD)), text)
    for _ in range(8):
        text, count = _SIMPLE.subn(lambda found: _code(found[1], found[2]), text)
        if not count:
            break
    return text.translate(_FREED)


def _code(letter: str, inner: str) -> str:
    if letter in "XZ":
        return ""
    if letter == "E":
        return _entity(inner).translate(_HELD)
    if letter == "L":
        shown, bar, _ = inner.partition("|")
        if bar:
            return shown
        if "://" in inner:
            return inner
        page, slash, section = inner.partition("/")
        section = section.strip('"')
        return (f"{section} in {page}" if page else section) if slash else inner
    return inner


def _entity(name: str) -> str:
    if name in _NAMED:
        return _NAMED[name]
    if name.isascii() and name.isdigit() and len(name) < 7:
        return chr(min(int(name), 0x10FFFF))
    return html5.get(f"{name};", name)
