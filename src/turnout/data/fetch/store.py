"""A corpus on disk: finished sources one by one, then a manifest, written last.

NAME/manifest.json      there when the corpus is whole, and only then
NAME/text/*.jsonl       a file a source
NAME/held_out/*.jsonl   sources kept for evaluation
NAME/LICENCES/*.txt     the packages' copyright files
NAME/.work/             records of finished sources, downloads; gone when the corpus is whole

A set of tasks is kept the same way, with a folder a task: TASK/train.jsonl and so on.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from turnout.config.errors import UserError
from turnout.data.fetch.clean import VERSION
from turnout.data.fetch.corpora import Source
from turnout.data.fetch.documents import Tally
from turnout.data.fetch.download import sha256_of
from turnout.data.fetch.offers import LeftOut, Offer

FORMAT = "turnout corpus 1"
TASKS_FORMAT = "turnout tasks 1"
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Store:
    """The folder of one corpus.

    Attributes:
        folder: where it is.
        parts: what it is made of, as the manifest calls them: sources, or tasks.
    """

    folder: Path
    parts: Literal["sources", "tasks"] = "sources"

    @property
    def manifest_path(self) -> Path:
        """Its presence says that the corpus is whole."""
        return self.folder / "manifest.json"

    @property
    def downloads(self) -> Path:
        """Verified packages, until the corpus is whole."""
        return self.folder / ".work" / "downloads"

    def text_path(self, source: Source) -> Path:
        """Where a source's documents are."""
        return self.folder / _relative(source)

    def finished_path(self, name: str) -> Path:
        """Where the documents of a source are that this fetch has recorded."""
        record = _load(self.folder / ".work" / f"{name}.json") or {}
        return self.folder / str(record["file"])

    def part_path(self, source: Source) -> Path:
        """Where they are while they are being written."""
        return self.folder / ".work" / f"{source.name}.part"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process; the lock goes with the process, however it ends.

        Raises:
            UserError: another process fetches into the same folder, or a file is in its place.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"--out: {str(self.folder)!r} is a file; give a folder")
        (self.folder / ".work").mkdir(parents=True, exist_ok=True)
        with (self.folder / ".work" / "lock").open("w") as file:
            if sys.platform != "win32":
                import fcntl

                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise UserError(
                        f"another fetch is writing to {str(self.folder)!r}; wait for it to end"
                    ) from error
            yield

    def check(self, name: str) -> None:
        """Refuse a folder that holds something else.

        Raises:
            UserError: the manifest there is not that of ``name``.
        """
        there = self.manifest()
        if there is None:
            return
        found = there.get("name") if there.get("format") == self._format else None
        if found != name:
            what = f"holds {found!r}" if found else "has the manifest.json of something else"
            raise UserError(
                f"--out: {str(self.folder)!r} {what}, not {name!r}; give {name!r} another folder"
            )

    def check_tasks(self, names: Iterable[str]) -> None:
        """Refuse to write among files that no fetch has put there.

        Raises:
            UserError: a task's folder is there, and no record of it.
        """
        for name in names:
            target = self.folder / name
            empty = not target.exists() or (target.is_dir() and not any(target.iterdir()))
            if not empty and not self._own(name):
                raise UserError(
                    f"--out: {str(target)!r} is there and was not made by `data fetch`; move it, "
                    "or give another folder"
                )

    def manifest(self) -> Record | None:
        """The manifest, if the corpus is whole and the manifest can be read."""
        return _load(self.manifest_path)

    def records(self) -> dict[str, Record]:
        """Finished parts by name, whose files are as they were when they were finished."""
        found = list((self.manifest() or {}).get(self.parts, []))
        found += filter(None, map(_load, sorted((self.folder / ".work").glob("*.json"))))
        return {record["name"]: record for record in found if self._is_whole(record)}

    def reopen(self) -> None:
        """Turn a whole corpus into one being made: its parts stay finished, one by one."""
        for record in (self.manifest() or {}).get(self.parts, []):
            self.record(record)
        self.manifest_path.unlink(missing_ok=True)

    def finish(self, source: Source, offer: Offer, tally: Tally) -> Record:
        """Give a written source its name, then record it: in that order a kill loses nothing."""
        target = self.text_path(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = self.part_path(source)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        sha256 = sha256_of(part)
        part.replace(target)
        record = {
            "name": source.name,
            "file": _relative(source).as_posix(),
            "held_out": source.held_out,
            "package": offer.name,
            "manager": offer.package.manager,
            "version": offer.version,
            "origin": offer.origin,
            "package_sha256": offer.sha256,
            "licence": source.licence,
            "cleaner": source.cleaner,
            "cleaning": VERSION,
            "without_lines_of": source.without_lines_of,
            "note": source.note,
            "documents": sum(count.documents for count in tally.languages.values()),
            "bytes": sum(count.bytes for count in tally.languages.values()),
            **asdict(tally),
            "sha256": sha256,
        }
        self.record(record)
        return record

    def finish_task(self, name: str, files: Mapping[str, bytes]) -> dict[str, str]:
        """Write the files of a task, then give them their names; returns hashes by path.

        Of what was there before, only files that an earlier fetch has made are taken away.
        """
        part = self.folder / ".work" / f"{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        target = self.folder / name
        target.mkdir(exist_ok=True)
        for file, content in files.items():
            _write(part / file, content)
        own = self._own(name) | set(files)
        # Before the first of them: after a kill it says whose they are.
        _write_json(self._claim(name), {"files": sorted(own)})
        for old in own - set(files):
            (target / old).unlink(missing_ok=True)
        for file in files:
            (part / file).replace(target / file)
        part.rmdir()
        return {f"{name}/{file}": sha256_of(target / file) for file in files}

    def licences(self, package: str, texts: list[tuple[str, bytes]]) -> None:
        """Keep the copyright files of a package."""
        folder = self.folder / "LICENCES"
        folder.mkdir(exist_ok=True)
        parts = [f"{name}\n\n".encode() + text for name, text in texts]
        if not parts:
            parts = [b"The package has no copyright file of its own.\n"]
        _write(folder / f"{package.strip('@').replace('/', '_')}.txt", b"\n\n".join(parts))

    def close(self, name: str, order: list[str], left_out: tuple[LeftOut, ...]) -> Record:
        """Write the manifest, and only then take the working files away."""
        known = self.records()
        made = [known[part] for part in order if part in known]
        manifest = {
            "format": self._format,
            "name": name,
            **({"cleaning": VERSION} if self.parts == "sources" else {}),
            "documents": sum(record["documents"] for record in made),
            "bytes": sum(record["bytes"] for record in made),
            "sha256": _digest(made),
            self.parts: made,
            "left_out": [asdict(one) for one in left_out],
        }
        _write_json(self.manifest_path, manifest)
        for path in (self.folder / ".work").iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()
        return manifest

    def record(self, record: Record) -> None:
        """Note that a part is finished, whose files have their names already."""
        _write_json(self.folder / ".work" / f"{record['name']}.json", record)

    def drop(self, name: str) -> None:
        """Take a finished part away, with its files."""
        path = self.folder / ".work" / f"{name}.json"
        for file in _hashes(_load(path) or {"files": {}}):
            (self.folder / file).unlink(missing_ok=True)
        path.unlink(missing_ok=True)

    @property
    def _format(self) -> str:
        return FORMAT if self.parts == "sources" else TASKS_FORMAT

    def _claim(self, name: str) -> Path:
        return self.folder / ".work" / f"{name}.claim"

    def _own(self, name: str) -> set[str]:
        """Names of files in a task's folder that a fetch has made, whole or interrupted."""
        records = [*(self.manifest() or {}).get(self.parts, [])]
        records += filter(None, [_load(self.folder / ".work" / f"{name}.json")])
        paths = [path for one in records if one["name"] == name for path in _hashes(one)]
        claimed = (_load(self._claim(name)) or {}).get("files", [])
        return {Path(path).name for path in paths} | set(claimed)

    def _is_whole(self, record: Record) -> bool:
        return all(
            (self.folder / path).is_file() and sha256_of(self.folder / path) == sha256
            for path, sha256 in _hashes(record).items()
        )


def _relative(source: Source) -> Path:
    return Path("held_out" if source.held_out else "text", f"{source.name}.jsonl")


def _hashes(record: Record) -> Mapping[str, str]:
    """SHA-256 by path: a source has one file, a task several."""
    if "files" in record:
        files: Mapping[str, str] = record["files"]
        return files
    return {record["file"]: record["sha256"]}


def _digest(made: list[Record]) -> str:
    digest = hashlib.sha256()
    for record in made:
        for path, sha256 in _hashes(record).items():
            digest.update(f"{path} {sha256}\n".encode())
    return digest.hexdigest()


def _load(path: Path) -> Record | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _write_json(path: Path, value: Record) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=2) + "\n"
    _write(path, text.encode())


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all: a file beside it, fsync, then a rename."""
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
