"""Where tasks are found: those that come along, files, and folders that hold a ``task.toml``."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from turnout.config import io
from turnout.config.errors import UserError, nearest
from turnout.config.task import FOLDER, Task
from turnout.evaluate.questions import Question, questions
from turnout.evaluate.records import TaskSource, source_of

BUILT_IN = Path(__file__).parent / "tasks"
FILE = "task.toml"
SUFFIX = ".toml"
MOST_SHOTS_READ = 1000  # of the hub, from where they come one by one


@dataclass(frozen=True)
class Found:
    """A task and the place of its examples."""

    task: Task
    source: TaskSource

    @property
    def name(self) -> str:
        return self.task.name

    def scored(self, split: str) -> list[Question]:
        """The questions of a split.

        Args:
            split: ``train``, ``validation`` or ``test``.

        Raises:
            UserError: an empty split, or one that cannot be read; as ``questions``.
        """
        stem = getattr(self.task.splits, split)
        option = f"task {self.name!r}"
        found = questions(self.task, self.source.records(stem, option))
        if not found:
            raise UserError(f"{option}: its split {stem!r} holds no example; score another")
        return found

    def pool(self) -> list[Question]:
        """What shots are drawn from: the training split, of the hub its first thousand examples;
        all there are, where splits are not told apart."""
        records = self.source.records(self.task.splits.train, f"task {self.name!r}, for shots")
        most = MOST_SHOTS_READ if self.source.streamed else None
        return questions(self.task, islice(records, most))


def built_in() -> dict[str, Task]:
    """The tasks that come along, by name."""
    return {path.stem: _read(path, path.stem) for path in sorted(BUILT_IN.glob(f"*{SUFFIX}"))}


def find(name: str, data: Mapping[str, str] | None = None) -> Found:
    """The task of a name, of a file, or of a folder that holds a ``task.toml``. A name that comes
    along is that task, and a folder of the same name is ``./NAME``.

    Args:
        data: other places of the examples, by the task's name; seen from the working folder.

    Raises:
        UserError: there is no such task, or its file cannot be (an unknown field, a wrong value).
    """
    path = Path(name)
    known = [each.stem for each in BUILT_IN.glob(f"*{SUFFIX}")]
    if name in known:
        file = BUILT_IN / f"{name}{SUFFIX}"
        task = _read(file, name)
    elif path.is_dir():
        file = path / FILE
        if not file.is_file():
            raise UserError(f"task {name!r}: the folder holds no {FILE}")
        task = _read(file, path.resolve().name)
    elif path.suffix == SUFFIX:
        file, task = path, _read(path, path.stem)
    else:
        hint = nearest(name, known)
        hint = hint if hint.startswith("did") else "`turnout eval --list` names those there are"
        raise UserError(f"task {name!r}: no such task, {SUFFIX} file or folder; {hint}")
    given = (data or {}).get(task.name)
    place = (task.source, file.parent) if given is None else (given, Path(FOLDER))
    return Found(task, source_of(*place, f"task {task.name!r}"))


def find_all(names: list[str], data: Mapping[str, str]) -> list[Found]:
    """``find`` of each.

    Raises:
        UserError: as ``find``; two tasks of one name; data for a task that is not asked for.
    """
    found = [find(name, data) for name in names]
    there = [each.name for each in found]
    twice = sorted({name for name in there if there.count(name) > 1})
    if twice:
        raise UserError(f"task {twice[0]!r}: given twice; name each once")
    for name in data:
        if name not in there:
            raise UserError(
                f"--task-data {name}: no such task is asked for; {nearest(name, there)}"
            )
    return found


def _read(path: Path, name: str) -> Task:
    try:
        task: Task = io.from_dict(Task, io.load_table(path))
    except UserError as error:
        raise UserError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
    return task if task.name else replace(task, name=name)
