"""Cleaners by name: each turns a file of a package into documents of plain text."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from turnout.data.fetch.clean import html, plain, pod, roff, rst

VERSION = 1
"""Raise it when a cleaner's output changes: corpora cleaned by another version are made anew."""

Cleaner = Callable[[str, bytes], Iterable[tuple[str, str]]]
"""From a file's name and contents to (id, text) pairs; the text is not yet tidied."""


def _page(clean: Callable[[str, bytes], str]) -> Cleaner:
    """The cleaner of files that are a document each, called by the file's name."""

    def cleaner(name: str, raw: bytes) -> Iterator[tuple[str, str]]:
        yield name, clean(name, raw)

    return cleaner


CLEANERS: Mapping[str, Cleaner] = {
    "asciidoc": _page(html.asciidoc),
    "cppreference": _page(html.cppreference),
    "devil": plain.devil,
    "docbook": _page(html.docbook),
    "foldoc": plain.foldoc,
    "gcide": plain.gcide,
    "glosses": plain.glosses,
    "jargon": plain.jargon,
    "libreoffice": _page(html.libreoffice),
    "man": _page(roff.man),
    "mdbook": _page(html.mdbook),
    "paragraphs": _page(plain.paragraphs),
    "pod": _page(pod.pod),
    "r_strings": plain.r_strings,
    "rst": _page(rst.rst),
    "vim": _page(html.vim),
    "wordnet": plain.wordnet,
}
