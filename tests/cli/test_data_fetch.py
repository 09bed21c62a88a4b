"""``turnout data fetch`` in this process, and with stand-ins for apt and npm in another."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.data.fetch.packages import CORPUS, stocked
from tests.data.fetch.tasks.small import opened

from turnout.cli import data_fetch
from turnout.cli.fetch_display import LiveProgress
from turnout.data.fetch.clean import CLEANERS
from turnout.data.fetch.corpora import CORPORA
from turnout.data.fetch.tasks.catalogue import TASK_SETS

Turnout = Callable[..., Any]


def test_the_parts_are_listed(turnout: Turnout) -> None:
    for arguments in (("data",), ("data", "--help")):
        result = turnout(*arguments)
        assert result.code == 0
        assert "fetch      larger corpora" in result.out
    result = turnout("data", "fetsh")
    assert result.code == 2
    assert result.err == "error: data: no part 'fetsh'; did you mean 'fetch'?\n"


def test_corpora_are_listed_with_sizes_and_licences(turnout: Turnout) -> None:
    result = turnout("data", "fetch")
    assert result.code == 0
    for corpus in CORPORA.values():
        assert f"{corpus.name}: " in result.out
        for source in corpus.sources:
            assert source.name in result.out
            assert source.licence in result.out
    assert "90 MB to download" in result.out
    for tasks in TASK_SETS.values():
        assert f"{tasks.name}: {tasks.corpus.summary}" in result.out
        assert all(f"  {task.name}: {task.summary}" in result.out for task in tasks.tasks)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("proze",), "error: no corpus 'proze'; did you mean 'prose'?\n"),
        (
            ("prose", "--without", "wordnot"),
            "error: --without: no source 'wordnot'; did you mean 'wordnet'?\n",
        ),
        (("fact",), "error: no corpus 'fact'; did you mean 'facts'?\n"),
        (
            ("facts", "tasks", "--out", "x"),
            "error: --out: one folder for facts and tasks; fetch them one by one\n",
        ),
        (
            ("facts", "--without", "spam-assassin"),
            "error: --without: no source 'spam-assassin'; known: bsdgames, countries-list, "
            "iso-codes, kgeography, wordnet\n",
        ),
        (("prose", "--dri-run"), "error: no option --dri-run; did you mean --dry-run?\n"),
    ],
)
def test_what_is_not_known(turnout: Turnout, arguments: tuple[str, ...], message: str) -> None:
    result = turnout("data", "fetch", *arguments)
    assert (result.code, result.err) == (2, message)


def test_a_machine_with_neither_apt_nor_npm(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": str(tmp_path)}
    for option in ((), ("--dry-run",)):
        done = subprocess.run(
            [sys.executable, "-m", "turnout", "data", "fetch", "prose", "--out", "x", *option],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "npm is not installed (install it with `apt-get install npm`" in done.stdout
        assert "apt-get is not installed" in done.stdout
        assert done.returncode == (0 if option else 2)
    assert not (tmp_path / "x").exists()


def test_a_fetch_and_what_it_says(
    turnout: Turnout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = stocked(tmp_path)
    monkeypatch.setattr(data_fetch, "CORPORA", {"small": CORPUS})
    monkeypatch.setattr(data_fetch, "_tools", lambda: shop.tools)
    dry = turnout("data", "fetch", "small", "--out", "corpus", "--dry-run")
    assert "apt manual-10 10.2-1  0.0 MB  manual" in dry.out
    assert dry.out.splitlines()[-1] == "0.0 MB would be downloaded, for corpus"
    assert not Path("corpus").exists()
    result = turnout("data", "fetch", "small", "--out", "corpus")
    assert (result.code, result.err) == (0, "")
    manifest = json.loads(Path("corpus/manifest.json").read_text())
    lines = result.out.splitlines()
    assert lines[0] == "tales 2.0.0: fetching 0.0 MB"
    assert lines[1].startswith("tales: 0.0 MB fetched, 0.00 MB of text, 1 documents, en, ")
    assert f"sha256 {manifest['sha256']}" in lines
    assert "  de-at (held out)         0.00 MB        1 documents" in lines
    assert lines[-1].endswith(" train --data corpus/text")
    again = turnout("data", "fetch", "small", "--out", "corpus")
    assert again.out.startswith("small is there already; delete its folder")
    assert again.out.splitlines()[1:] == lines[lines.index(again.out.splitlines()[1]) :]


def test_tasks_and_what_is_said_of_them(
    turnout: Turnout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, sets = opened(tmp_path / "shop")
    monkeypatch.setattr(data_fetch, "TASK_SETS", sets)
    monkeypatch.setattr(data_fetch, "_tools", lambda: shop.tools)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    dry = turnout("data", "fetch", "tasks", "facts", "--dry-run")
    assert "apt iso-codes 1.0-1  0.0 MB  iso-codes" in dry.out
    assert not (tmp_path / "cache").exists()
    result = turnout("data", "fetch", "facts", "tasks")
    assert (result.code, result.err) == (0, "")
    folder = tmp_path / "cache" / "turnout" / "corpora"
    manifest = json.loads((folder / "tasks" / "manifest.json").read_text())
    assert f"sha256 {manifest['sha256']}" in result.out
    (entailment,) = (task for task in manifest["tasks"] if task["name"] == "entailment")
    count = sum(entailment["examples"]["train"].values())
    assert f"  entailment   train {count}, validation " in result.out
    assert "chance 0.500, majority 0.500, words " in result.out
    assert (
        f"--objective.kind text_to_text --data {folder / 'facts' / 'closed-book' / 'train.jsonl'}"
        in result.out
    )
    again = turnout("data", "fetch", "facts", "tasks")
    assert "facts is there already; delete its folder" in again.out
    assert "tasks is there already; delete its folder" in again.out


def test_the_tables_are_consistent() -> None:
    for corpus in CORPORA.values():
        names = [source.name for source in corpus.sources]
        assert len(set(names)) == len(names)
        for number, source in enumerate(corpus.sources):
            assert source.cleaner in CLEANERS
            assert source.licence
            # What a source is compared with is made before it.
            assert source.without_lines_of in ("", *names[:number])
    known = (*CORPORA.values(), *(tasks.corpus for tasks in TASK_SETS.values()))
    for package in (package for corpus in known for package in corpus.packages):
        pinned = bool(package.version and len(package.sha256) == 64)
        assert pinned == (package.manager == "npm")


def test_the_live_display_shows_the_step_at_hand() -> None:
    from rich.console import Console
    from rich.progress import Progress, TextColumn

    console = Console(width=80, force_terminal=True)
    columns = (TextColumn("{task.description} {task.completed} of {task.total}"),)
    with console.capture() as captured, Progress(*columns, console=console) as bar:
        live = LiveProgress(bar)
        live.begin("manual 1.0", 200)
        live.update(50)
        bar.refresh()
        live.say("[bold]finished[/bold]")
        live.begin("manual: cleaning", 0)
        bar.refresh()
    assert "manual 1.0 50 of 200" in captured.get()
    assert "manual: cleaning 0 of None" in captured.get()
    assert "[bold]finished[/bold]" in captured.get()  # names are text, not markup


def test_the_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert data_fetch._cache() == tmp_path / "turnout" / "corpora"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data_fetch._cache() == Path.home() / ".cache" / "turnout" / "corpora"
