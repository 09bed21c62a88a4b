"""reStructuredText as Sphinx writes it, to text: roles, directives and labels taken away.

docutils knows none of Sphinx's roles and directives, so its parser would need each of them
registered; the few forms that documentation uses are lines and are read as such.
"""

import re

from turnout.data.fetch.clean.text import decode, tidy, unwrap_paragraph

_RULE = re.compile(r"^([=\-~^\"'`#*+.:_<>])\1{2,}\s*$")
_DIRECTIVE = re.compile(r"^(\s*)\.\. (?:\|[^|]+\| )?([A-Za-z][\w:+.-]*)::(?:\s+(.*))?$")
_MARKUP = re.compile(r"^(\s*)\.\.(?:\s|$)")
_OPTION = re.compile(r"^\s*:[\w-]+:(\s|$)")
_FIELD = re.compile(r"^:[A-Za-z][\w -]*:\s")
_BULLET = re.compile(r"\s*(?:[-*+•]|#\.|[0-9]+[.)])\s")

# These and their bodies are no text.
_DROPPED = frozenset(
    [
        "module",
        "moduleauthor",
        "sectionauthor",
        "codeauthor",
        "index",
        "highlight",
        "toctree",
        "contents",
        "include",
        "literalinclude",
        "currentmodule",
        "image",
        "figure",
        "raw",
        "testsetup",
        "testcleanup",
        "replace",
        "unicode",
        "kernel-doc",
        "kernel-figure",
        "kernel-render",
        "tabularcolumns",
        "only",
        "default-domain",
        "role",
        "meta",
        "sectnum",
        "program",
        "py:module",
        "class-diagram",
        "graphviz",
    ]
)
_SPOKEN = {"seealso": "See also", "versionadded": "New in version", "rubric": ""}
_SPOKEN |= {"versionchanged": "Changed in version", "deprecated": "Deprecated since version"}
_ASIDES = frozenset(
    ["note", "warning", "tip", "caution", "important", "attention", "danger", "error", "hint"]
)
_CODE = frozenset(
    [
        "code-block",
        "code",
        "sourcecode",
        "highlight",
        "parsed-literal",
        "productionlist",
        "doctest",
        "testcode",
        "testoutput",
        "math",
    ]
)

_ROLE_TARGET = re.compile(r":[a-zA-Z][\w:+.-]*:`!?([^`<]+?)\s*<[^`>]+>`", re.DOTALL)
_ROLE = re.compile(r":[a-zA-Z][\w:+.-]*:`([!~]?)([^`\n]+(?:\n[^`\n]+)?)`")
_LINK = re.compile(r"`([^`<]+?)\s*<[^`>]+>`__?", re.DOTALL)
_REFERENCE = re.compile(r"`([^`]+)`__?(?!\w)")
_LITERAL = re.compile(r"``(.+?(?:\n.+?)?)``")
_STRONG = re.compile(r"(?<![\w*`])(\*{1,2})(?=[^\s*])([^*`]+?)(?<=\S)\1(?![\w*`])")
_SUBSTITUTION = re.compile(r"\|(\w[\w -]*)\|_{0,2}")
_PARAMETER = re.compile(
    r"^(\s*):(?:param|arg|argument|parameter|keyword|type|raises?)\s([^:]*):", re.M
)
_RETURNS = re.compile(r"^(\s*):(?:returns?|rtype):", re.M)
_FOOTNOTE = re.compile(r" ?\[#?\w*\]_")


def rst(name: str, raw: bytes) -> str:
    """A page; code and literal blocks keep their lines, paragraphs are joined."""
    lines = tidy(decode(raw)).expandtabs().split("\n")
    return "\n\n".join(block for block in _blocks(_without_markup(lines)) if block.strip())


def _without_markup(lines: list[str]) -> list[tuple[bool, str]]:
    """Lines that are text, each with whether it stands in a literal block."""
    kept: list[tuple[bool, str]] = []
    literal = dropped = -1  # the indentation that the block is deeper than; -1 outside
    options = False
    for number, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if not line.strip():
            kept.append((literal >= 0, ""))
            options = False
            continue
        if dropped >= 0 and indent > dropped:
            continue
        dropped = -1
        if literal >= 0 and indent > literal:
            if not (options and _OPTION.match(line)):
                kept.append((True, line))
            continue
        literal = -1
        if options and _OPTION.match(line):
            continue
        options = False
        if found := _DIRECTIVE.match(line):
            kind, argument = found[2].lower(), found[3] or ""
            options = True
            if kind in _DROPPED or "|" in line.split("::")[0]:
                dropped = indent
            else:
                literal = indent if kind in _CODE else -1
                kept.append((False, ""))
                kept.append((False, _spoken(kind, argument, indent)))
        elif _MARKUP.match(line):
            dropped = indent
        elif not _is_rule(lines, number) and not (number < 12 and _FIELD.match(line)):
            kept.append((False, line))
            literal = indent if line.endswith("::") else -1
    return kept


def _is_rule(lines: list[str], number: int) -> bool:
    return _RULE.match(lines[number]) is not None


def _spoken(kind: str, argument: str, indent: int) -> str:
    """What a directive's first line says to a reader."""
    margin = " " * indent
    if kind in _ASIDES:
        return f"{margin}{kind.capitalize()}: {argument}".rstrip()
    if kind in _SPOKEN:
        word = f"{_SPOKEN[kind]} {argument}".strip()
        return f"{margin}{word}." if _SPOKEN[kind] else margin + argument
    if kind in _CODE or kind in ("list-table", "table", "csv-table", "tabs", "container"):
        return ""
    return margin + argument


def _blocks(lines: list[tuple[bool, str]]) -> list[str]:
    """Paragraphs; a literal block's are as they were, the others are joined and read."""
    blocks: list[str] = []
    paragraph: list[str] = []
    literal = False
    for is_literal, line in [*lines, (False, "")]:
        if paragraph and (not line or is_literal != literal):
            blocks.append(_block(paragraph, literal))
            paragraph = []
        if line:
            literal = is_literal
            paragraph.append(line)
    return blocks


def _block(lines: list[str], literal: bool) -> str:
    text = "\n".join(lines)
    if literal or text.lstrip().startswith(">>>"):
        return text
    if text.lstrip().startswith(("+-", "+=", "| ")):
        return _in_table(text)
    if text.strip() == "::":
        return ""
    text = re.sub(r"::$", ":", text, flags=re.MULTILINE)
    text = _RETURNS.sub(r"\1Returns:", _PARAMETER.sub(r"\1\2:", text))
    return _inline(unwrap_paragraph(text))  # in this order: markup counts in a wrapped line


def _in_table(text: str) -> str:
    """Without roles and double quotes, at the same width, so that columns stay columns."""
    text = _ROLE.sub(lambda found: _role(found).ljust(len(found[0])), text)
    return _LITERAL.sub(lambda found: f"`{found[1]}`".ljust(len(found[0])), text)


def _inline(text: str) -> str:
    text = _ROLE_TARGET.sub(r"\1", text)
    text = _ROLE.sub(_role, text)
    text = _LITERAL.sub(r"`\1`", text)
    text = _REFERENCE.sub(r"\1", _LINK.sub(r"\1", text))
    text = _STRONG.sub(r"\2", text)
    text = _FOOTNOTE.sub("", _SUBSTITUTION.sub(r"\1", text))
    return re.sub(r"\\([*`|_\\ ])", lambda found: found[1].strip(), text)


def _role(found: re.Match[str]) -> str:
    """``:func:`~os.path.join``` is shown as ``join``."""
    inner = found[2]
    return inner.rpartition(".")[2] if found[1] == "~" else inner
