"""Fetch a corpus: plan, download, clean, record; what is done stays done."""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from turnout.config.errors import UserError
from turnout.data.fetch import archive, documents
from turnout.data.fetch.clean import VERSION
from turnout.data.fetch.corpora import Corpus, Source
from turnout.data.fetch.download import download
from turnout.data.fetch.errors import PackageError
from turnout.data.fetch.offers import Offer, Plan
from turnout.data.fetch.progress import Progress
from turnout.data.fetch.store import Record, Store
from turnout.data.fetch.tools import Tools

_COPYRIGHT = re.compile(r"usr/share/doc/[^/]+/copyright|package/(?:LICENSE|NOTICE)[^/]*")
_ENOUGH_FAILURES = 2
DAMAGED = (ValueError, KeyError, IndexError, EOFError, OSError)
"""What readers raise at files that are not as they should be."""


@dataclass(frozen=True)
class Fetched:
    """A whole corpus.

    Attributes:
        manifest: what is in manifest.json.
        downloaded: bytes that were fetched this time.
        made: sources that were made this time.
    """

    manifest: Record
    downloaded: int
    made: tuple[str, ...]


def is_current(store: Store, plan: Plan) -> Record | None:
    """The manifest, if the corpus is whole and has every source of the plan, cleaned as now, and
    none that ``--without`` names."""
    manifest = store.manifest()
    if manifest is None:
        return None
    known = {name for name, record in store.records().items() if record["cleaning"] == VERSION}
    whole = len(known) == len(manifest.get("sources", []))
    wanted = {source.name for source, _ in plan.items} <= known and not plan.refused & known
    return manifest if whole and wanted else None


def fetch(corpus: Corpus, plan: Plan, store: Store, tools: Tools, progress: Progress) -> Fetched:
    """Make the planned sources that are not there yet, then write the manifest.

    Sources that fail do not keep the others from being made; then there is no manifest, what is
    done is kept, and the same call goes on from there.

    Raises:
        UserError: nothing can be had, the folder holds something else, or the sources that failed
            and why.
    """
    if not plan.items:
        raise UserError(f"nothing of {corpus.name!r} can be had: {'; '.join(plan.notes)}")
    store.check(corpus.name)
    with store.locked():
        store.reopen()
        for name in plan.refused:
            store.drop(name)
        done = store.records()
        failures: dict[str, PackageError] = {}
        downloaded, made = 0, []
        for source, offer in plan.items:
            if _is_done(done.get(source.name)):
                continue
            try:
                _check(offer, source, failures)
                downloaded += _make(source, offer, store, tools, progress)
                made.append(source.name)
            except PackageError as error:
                failures[source.name] = error
                progress.say(f"failed: {error}")
        if failures:
            raise UserError(_failed(failures))
        order = [source.name for source in corpus.sources]
        return Fetched(store.close(corpus.name, order, plan.left_out), downloaded, tuple(made))


def _is_done(record: Record | None) -> bool:
    return record is not None and record["cleaning"] == VERSION


def _check(offer: Offer, source: Source, failures: dict[str, PackageError]) -> None:
    """Do not ask again for what failed, nor ask a manager that seems to have no network."""
    needed = source.without_lines_of
    if needed in failures:
        raise PackageError(source.name, f"needs {needed}, which failed")
    asked = [error for error in failures.values() if " failed: " in error.reason]
    dead = [error for error in asked if error.reason.startswith(offer.package.manager)]
    if len({error.package for error in dead}) >= _ENOUGH_FAILURES:
        reason = f"not tried, since {offer.package.manager} failed {_ENOUGH_FAILURES} times"
        raise PackageError(source.name, reason)


def _make(source: Source, offer: Offer, store: Store, tools: Tools, progress: Progress) -> int:
    """Download, clean and record one source; returns the bytes that were downloaded."""
    started = time.monotonic()
    path, fetched = download(offer, store.downloads, tools, progress)
    progress.begin(f"{source.name}: cleaning", 0)
    known: frozenset[bytes] = frozenset()
    if source.without_lines_of:
        known = documents.lines_of(store.finished_path(source.without_lines_of))
    notices: list[tuple[str, bytes]] = []
    files = files_of(source, offer, path, tools, notices)
    try:
        tally = documents.write(source, files, store.part_path(source), known)
    except UserError:
        raise
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # a full disk is no fault of the package
        raise PackageError(source.name, f"a file in the package is damaged: {error}") from error
    if not tally.languages:
        raise PackageError(
            source.name,
            f"{offer.name} {offer.version} holds no text where it is expected; "
            f"leave it out with --without {source.name}",
        )
    store.licences(offer.name, notices)
    record = store.finish(source, offer, tally)
    progress.say(_line(record, fetched, time.monotonic() - started))
    return fetched


def files_of(
    source: Source, offer: Offer, path: Path, tools: Tools, notices: list[tuple[str, bytes]]
) -> Iterator[tuple[str, bytes, str]]:
    """The source's files with their languages; copyright files go to ``notices``.

    Raises:
        PackageError: as ``archive.members``.
    """
    pattern = re.compile(source.files)

    def wanted(name: str) -> bool:
        return bool(pattern.fullmatch(name) or _COPYRIGHT.fullmatch(name))

    for name, raw in archive.members(path, offer.name, wanted, tools):
        found = pattern.fullmatch(name)
        if found:
            language = found.groupdict().get("language") or source.language
            yield name, raw, language.lower().replace("_", "-")
        else:
            notices.append((name, raw))


def _line(record: Record, fetched: int, seconds: float) -> str:
    languages = record["languages"]
    tongue = next(iter(languages)) if len(languages) == 1 else f"{len(languages)} languages"
    how = f"{fetched / 1e6:.1f} MB fetched" if fetched else "package was there"
    return (
        f"{record['name']}: {how}, {record['bytes'] / 1e6:.2f} MB of text, "
        f"{record['documents']:,} documents, {tongue}, {seconds:.1f} s"
    )


def _failed(failures: dict[str, PackageError]) -> str:
    first = next(iter(failures.values()))
    more = ", and others for the reasons above" if len(failures) > 1 else ""
    return (
        f"{len(failures)} of the sources failed: {first}{more}. What is done is kept: run the same "
        f"command again, or go without them: --without {','.join(failures)}"
    )
