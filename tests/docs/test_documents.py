"""Every block of Python and every command in the documents runs, on a small model and few steps."""

import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.data.fetch.packages import CORPUS, stocked
from tests.data.fetch.tasks.small import task_shop
from turnout.cli import data_fetch
from turnout.cli.main import main
from turnout.config import io, presets
from turnout.config.train import RunConfig
from turnout.conformance import kit
from turnout.conformance.properties import PROPERTIES
from turnout.data.fetch.corpora import CORPORA

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SMALL = {
    "model.d_model": "32",
    "model.feed_forward.d_ff": "32",
    "train.batch_rows": "4",
    "train.eval_rows": "4",
    "train.micro_batches": "1",
    "train.steps": "3",
    "train.eval_every": "1",
    "train.threads": "1",
    "train.dtype": "float32",
}
# Python that another test runs: README's is a part of examples/drop_in.py.
ELSEWHERE = {"README.md": ROOT / "tests" / "examples" / "test_drop_in.py"}
# Of the comparisons only that of two runs is carried out; the protocols of the others are made.
# tests/data learns vocabularies from enough text for one. Nothing is measured, options are read.
CUT_SHORT = {
    r"compare (?!.*--rates 2e-3)": "--dry-run",
    r"train .*--data\.tokenizer ": "--dry-run",
    r"bench\b": "--list",
}


def blocks(document: Path, *languages: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(document.read_text()) if kind in languages]


def small(config: RunConfig) -> RunConfig:
    return io.override(config, SMALL)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    for number in range(12):
        text = "\n".join(f"On day {day} I wrote {day * number} words." for day in range(60))
        (folder / f"{number:02d}.txt").write_text(text)
    return folder


@pytest.fixture
def workplace(
    tmp_path: Path, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], RunConfig]:
    """A folder with notes to train on; presets are small ones over those notes."""
    whole = presets.run

    def shrunk(name: str, objective: str | None = None, dense: bool = False) -> RunConfig:
        config = whole(name, objective, dense)
        if config.model.d_model > 512:
            return config  # a published model, whose configuration alone is looked at
        return replace(small(config), data=replace(config.data, paths=(str(notes),)))

    monkeypatch.chdir(tmp_path)
    # tests/compiled asks that, with the time that a compiler takes.
    asked = tuple(each for each in PROPERTIES if each.name != "compiled")
    monkeypatch.setattr(kit, "PROPERTIES", asked)
    monkeypatch.setattr(presets, "run", shrunk)
    # The corpora are fetched from a shop of small packages.
    shop, task_sets = task_shop(stocked(tmp_path))
    small_corpora = {name: replace(CORPUS, name=name) for name in CORPORA}
    monkeypatch.setattr(data_fetch, "CORPORA", small_corpora)
    monkeypatch.setattr(data_fetch, "TASK_SETS", task_sets)
    monkeypatch.setattr(data_fetch, "_tools", lambda: shop.tools)
    return shrunk


@pytest.mark.parametrize(
    "document",
    [d for d in DOCUMENTS if blocks(d, "python") and d.name not in ELSEWHERE],
    ids=lambda document: document.name,
)
def test_python_blocks_run(document: Path, workplace: object) -> None:
    names: dict[str, object] = {"__name__": "document"}
    for text in blocks(document, "python"):
        exec(compile(text, str(document), "exec"), names)


def test_what_is_run_elsewhere_is() -> None:
    assert all(path.is_file() for path in ELSEWHERE.values())


def commands(document: Path) -> list[list[str]]:
    lines = "\n".join(blocks(document, "sh")).splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


# Their commands train most often, a minute each.
LONG = {
    "checkpoints.md",
    "distill.md",
    "finetune.md",
    "generation.md",
    "objectives.md",
    "surgery.md",
    "training.md",
}


def with_commands() -> list[object]:
    return [
        pytest.param(
            document, marks=[pytest.mark.slow] if document.name in LONG else [], id=document.name
        )
        for document in DOCUMENTS
        if blocks(document, "sh")
    ]


def write_tasks(document: Path) -> None:
    """A block that begins with its file's name is that file; blocks of JSON are its examples."""
    for text in blocks(document, "toml"):
        if text.startswith("# "):
            file = Path(text.splitlines()[0].removeprefix("# "))
            file.parent.mkdir()
            file.write_text(text)
            for split in ("train", "validation"):
                examples = "".join(blocks(document, "json"))
                (file.parent / f"{split}.jsonl").write_text(examples)


@pytest.mark.parametrize("document", with_commands())
def test_commands_run(
    document: Path, workplace: object, capsys: pytest.CaptureFixture[str]
) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert main(["train"]) == 0  # runs/switch_demo, which documents begin with
    for name in ("first", "second"):
        shutil.copytree("runs/switch_demo", f"runs/{name}")
    examples = "\n".join(
        f'{{"inputs": "{n} and {n} are", "targets": "{2 * n}", "answer": "{2 * n}"}}'
        for n in range(400)
    )
    for name in ("questions.jsonl", "other.jsonl"):
        Path(name).write_text(examples)
    # The small presets name the notes; a mixture has paths of its own.
    mixture = "\n".join(blocks(document, "toml"))
    alone = "[data]\npaths = []\n\n[data.mixture]"
    Path("mixture.toml").write_text(mixture.replace("[data.mixture]", alone, 1))
    write_tasks(document)
    shutil.copytree("notes", "letters")
    shutil.copy("notes/01.txt", "postcards.txt")
    for command, *arguments in commands(document):
        if command == "make":
            assert arguments[0] in targets, arguments
        elif command == ".ci/run":
            assert (ROOT / ".ci" / "run").is_file()
        else:
            assert command == "turnout", f"{document.name}: {command} is no command that is tested"
            capsys.readouterr()
            for pattern, option in CUT_SHORT.items():
                if re.match(pattern, shlex.join(arguments) + " ") and option not in arguments:
                    arguments.append(option)
            if "--train.steps" in arguments:
                arguments[arguments.index("--train.steps") + 1] = "6"  # more than were taken
            code = main(arguments)
            assert code == 0, f"turnout {shlex.join(arguments)}: {capsys.readouterr().err}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_blocks_say_what_they_are(document: Path) -> None:
    """A block without a language would be run by nothing."""
    kinds = {kind for kind, _ in BLOCK.findall(document.read_text())}
    assert kinds <= {"python", "sh", "text", "toml", "json"}, document.name
