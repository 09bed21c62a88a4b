"""The whole way, with stand-ins for apt and npm: plan, download, clean, record, resume."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.data.fetch.packages import (
    CORPUS,
    GERMAN,
    PROSE,
    SHARED,
    Lines,
    Shop,
    deb,
    files,
    info,
    sha256,
    stocked,
    tar,
)

from turnout.config.errors import UserError
from turnout.data.fetch.fetch import Fetched, fetch, is_current
from turnout.data.fetch.offers import plan
from turnout.data.fetch.store import Store


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    (tmp_path / "shop").mkdir()
    return stocked(tmp_path / "shop")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "corpora" / "small")


def run(shop: Shop, store: Store, progress: Lines | None = None, without: str = "") -> Fetched:
    planned = plan(CORPUS, shop.tools, frozenset(filter(None, without.split(","))))
    return fetch(CORPUS, planned, store, shop.tools, progress or Lines())


def rows(store: Store, name: str) -> list[dict]:
    return [json.loads(line) for line in (store.folder / name).read_text().splitlines()]


def test_a_corpus_from_end_to_end(shop: Shop, store: Store) -> None:
    fetched = run(shop, store)
    assert rows(store, "text/tales.jsonl") == [
        {"text": PROSE, "source": "tales", "language": "en", "id": "package/tales/one.txt"}
    ]
    # The second copy of the paragraph is gone; the short one between them stays.
    assert [row["text"] for row in rows(store, "text/manual.jsonl")] == [f"{PROSE}\n\nTwo."]
    (foreign,) = rows(store, "held_out/guide-xx.jsonl")
    assert (foreign["text"], foreign["language"]) == (GERMAN, "de-at")
    manifest = json.loads(store.manifest_path.read_text())
    assert manifest == fetched.manifest
    by_name = {record["name"]: record for record in manifest["sources"]}
    assert list(by_name) == ["tales", "manual", "guide-en", "guide-xx"]
    manual = by_name["manual"]
    assert (manual["package"], manual["version"], manual["manager"]) == (
        "manual-10",
        "10.2-1",
        "apt",
    )
    assert manual["package_sha256"] == sha256((shop.folder / "manual-10.deb").read_bytes())
    assert manual["sha256"] == sha256((store.folder / "text/manual.jsonl").read_bytes())
    assert (manual["documents"], manual["bytes"]) == (1, len(f"{PROSE}\n\nTwo."))
    assert manual["repeated_bytes"] == len(PROSE) + 2  # and the empty line before it
    assert by_name["guide-xx"]["foreign_bytes"] == len(SHARED) + 1  # and its newline
    assert manifest["bytes"] == sum(record["bytes"] for record in manifest["sources"])
    assert "Copyright the authors." in (store.folder / "LICENCES/manual-10.txt").read_text()
    assert "Do as you like." in (store.folder / "LICENCES/tales.txt").read_text()
    assert [path.name for path in (store.folder / ".work").iterdir()] == ["lock"]


def test_a_whole_corpus_is_left_alone_and_a_changed_file_is_noticed(
    shop: Shop, store: Store
) -> None:
    first = run(shop, store)
    planned = plan(CORPUS, shop.tools)
    assert is_current(store, planned) == first.manifest
    with (store.folder / "text/tales.jsonl").open("a") as file:
        file.write("\n")
    assert is_current(store, planned) is None
    asked = len(shop.log)
    again = run(shop, store)
    assert shop.log[asked:] == ["npm tales@2.0.0"]
    assert again.manifest == first.manifest
    assert again.made == ("tales",)


def test_a_corpus_that_is_being_mended_has_no_manifest(shop: Shop, store: Store) -> None:
    first = run(shop, store)
    (store.folder / "held_out/guide-xx.jsonl").unlink()
    with pytest.raises(KeyboardInterrupt):
        run(shop, store, Lines(stop_at="guide-xx"))
    assert not store.manifest_path.exists()
    again = run(shop, store)
    assert again.made == ("guide-xx",)
    assert again.manifest == first.manifest


def test_the_same_packages_give_the_same_corpus(shop: Shop, store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    assert run(shop, store).manifest == run(shop, other).manifest


def test_what_is_not_offered_is_left_out_in_one_line(shop: Shop, store: Store) -> None:
    (shop.folder / "names").write_text("manual-9\nmanual-10\nguide-xx\n")
    planned = plan(CORPUS, shop.tools)
    assert planned.notes == (
        "left out, since apt offers no guide-en: guide-en; the other 2 can be had",
        "left out, since guide-en, which tells its untranslated lines, is left out: guide-xx; "
        "the other 2 can be had",
    )
    manifest = run(shop, store).manifest
    assert [record["name"] for record in manifest["sources"]] == ["tales", "manual"]
    assert [one["source"] for one in manifest["left_out"]] == ["guide-en", "guide-xx"]
    # Once they are offered, the same call adds them and touches nothing else.
    (shop.folder / "names").write_text("manual-10\nguide-xx\nguide-en\n")
    assert run(shop, store).made == ("guide-en", "guide-xx")


def test_without_apt(shop: Shop, store: Store) -> None:
    shop.remove("apt-get")
    (note,) = plan(replace(CORPUS, sources=CORPUS.sources[:2]), shop.tools).notes
    assert note == (
        "left out, since apt-get is not installed (apt-get and apt-cache come with Debian and "
        "Ubuntu): manual; the other 1 can be had"
    )
    assert run(shop, store).made == ("tales",)


def test_without_npm_and_without_lists(shop: Shop, store: Store) -> None:
    shop.remove("npm")
    notes = plan(CORPUS, shop.tools).notes
    assert notes[0].startswith("left out, since npm is not installed (install it with `apt-get")
    (shop.folder / "names").write_text("")
    with pytest.raises(UserError, match=r"nothing of 'small' can be had: .*`apt-get update`"):
        run(shop, store)
    assert not store.folder.exists()


@pytest.mark.parametrize("digest", ["", "not a hash", "0" * 63])
def test_an_offer_without_a_hash_is_none(shop: Shop, digest: str) -> None:
    records = shop.folder / "records"
    package = sha256((shop.folder / "guide-en.deb").read_bytes())
    records.write_text(records.read_text().replace(package, digest))
    assert "apt offers no guide-en" in " ".join(plan(CORPUS, shop.tools).notes)


def test_a_wrong_hash_stops_its_source_alone(shop: Shop, store: Store) -> None:
    path = shop.folder / "manual-10.deb"
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(UserError, match=r"manual-10: refused: its SHA-256 is .* --without manual$"):
        run(shop, store)
    assert not store.manifest_path.exists()
    made = {path.name for path in (store.folder / "text").iterdir()}
    assert made == {"tales.jsonl", "guide-en.jsonl"}
    path.write_bytes(good)
    asked = len(shop.log)
    run(shop, store)
    assert shop.log[asked:] == ["apt manual-10=10.2-1"]


def test_a_wrong_pinned_hash(shop: Shop, store: Store) -> None:
    (shop.folder / "tales.tgz").write_bytes(b"something else")
    with pytest.raises(UserError, match=r"tales: refused: .*is pinned for this version"):
        run(shop, store)
    assert run(shop, store, without="tales").manifest["left_out"] == [
        {"source": "tales", "why": "--without names it"}
    ]


def test_a_hostile_package_with_the_right_hash(shop: Shop, store: Store, tmp_path: Path) -> None:
    hostile = deb(tar([info("../../escaped.txt", b"x")]))
    (shop.folder / "names").write_text("")
    (shop.folder / "records").write_text("")
    shop.sell("manual-11", hostile)
    with pytest.raises(UserError, match="leads out of the package"):
        run(shop, store)
    assert not list(tmp_path.rglob("escaped.txt"))


def test_a_package_without_the_expected_files(shop: Shop, store: Store) -> None:
    shop.sell("manual-11", deb(files({"usr/share/moved/a.txt": PROSE})))
    with pytest.raises(UserError, match=r"manual-11 1\.0-1 holds no text where it is expected"):
        run(shop, store)


def test_offline_says_so_once_and_does_not_ask_for_all(shop: Shop, store: Store) -> None:
    shop.program(
        "apt-get",
        'echo "apt $*" >> "$shop/log"\n'
        'echo "E: Failed to fetch guide  Could not resolve host" >&2; exit 100',
    )
    progress = Lines()
    with pytest.raises(UserError) as caught:
        run(shop, store, progress)
    message = str(caught.value)
    assert "3 of the sources failed" in message
    assert "manual-10: apt failed: Failed to fetch guide Could not resolve host" in message
    assert "failed: guide-xx: needs guide-en, which failed" in progress.said
    assert len(message.splitlines()) == 1
    assert len([line for line in shop.log if line.startswith("apt ")]) == 2


def test_a_manager_that_failed_twice_is_not_asked_again(shop: Shop, store: Store) -> None:
    shop.program("apt-get", 'echo "apt" >> "$shop/log"; exit 1')
    sources = tuple(replace(source, without_lines_of="") for source in CORPUS.sources)
    corpus = replace(CORPUS, sources=sources)
    progress = Lines()
    with pytest.raises(UserError, match="3 of the sources failed: manual-10: apt failed"):
        fetch(corpus, plan(corpus, shop.tools), store, shop.tools, progress)
    assert progress.said[-1] == "failed: guide-xx: not tried, since apt failed 2 times"
    assert shop.log.count("apt") == 2


@pytest.mark.parametrize("label", ["manual-10", "manual: cleaning", "guide-xx: cleaning"])
def test_an_interruption_costs_at_most_the_step_at_hand(
    shop: Shop, store: Store, tmp_path: Path, label: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(shop, store, Lines(stop_at=label))
    assert not store.manifest_path.exists()
    manifest = run(shop, store).manifest
    assert len(shop.log) == len(set(shop.log)) == 4  # nothing was downloaded twice
    assert manifest == run(shop, Store(tmp_path / "whole")).manifest


def test_kill_9_in_the_middle_of_a_download(shop: Shop, store: Store, tmp_path: Path) -> None:
    honest = (shop.folder / "bin" / "apt-get").read_text()
    shop.program("apt-get", "printf half > manual-10.deb; kill -9 $PPID")
    code = (
        "import sys; from pathlib import Path\n"
        "from tests.data.fetch.packages import CORPUS, Lines, Shop\n"
        "from turnout.data.fetch.fetch import fetch\n"
        "from turnout.data.fetch.offers import plan\n"
        "from turnout.data.fetch.store import Store\n"
        "tools = Shop(Path(sys.argv[1])).tools\n"
        "fetch(CORPUS, plan(CORPUS, tools), Store(Path(sys.argv[2])), tools, Lines())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(shop.folder), str(store.folder)],
        cwd=Path(__file__).parents[3],
        check=False,
    )
    assert done.returncode == -9
    assert not store.manifest_path.exists()
    (shop.folder / "bin" / "apt-get").write_text(honest)
    manifest = run(shop, store).manifest
    assert shop.log.count("npm tales@2.0.0") == 1
    assert manifest == run(shop, Store(tmp_path / "whole")).manifest


def test_a_damaged_download_of_an_earlier_run_is_fetched_again(shop: Shop, store: Store) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(shop, store, Lines(stop_at="manual: cleaning"))
    (archive,) = store.downloads.glob("manual-10*.deb")
    archive.write_bytes(archive.read_bytes()[:-9])
    progress = Lines()
    run(shop, store, progress)
    assert "manual-10: the file of an earlier run is damaged and is fetched again" in progress.said
    assert shop.log.count("apt manual-10=10.2-1") == 2


def test_a_download_is_followed_while_it_runs(shop: Shop, store: Store) -> None:
    slow = '/bin/cp "$shop/tales.tgz" .; while [ ! -e "$shop/seen" ]; do /bin/sleep 0.05; done'
    shop.program("npm", slow)

    progress = Lines(seen=shop.folder / "seen")
    run(shop, store, progress)
    assert progress.most == (shop.folder / "tales.tgz").stat().st_size


def test_a_torn_record_means_the_source_is_made_again(shop: Shop, store: Store) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(shop, store, Lines(stop_at="guide-en"))
    (store.folder / ".work" / "manual.json").write_text('{"name": "man')
    assert run(shop, store).made == ("manual", "guide-en", "guide-xx")


def test_programs_see_the_path_they_were_found_on_and_no_shell(shop: Shop) -> None:
    shop.program("show", 'echo "$PATH|$LC_ALL|$HOME|$1"')
    tools = replace(shop.tools, environment={"HOME": "/home/me", "PATH": "/elsewhere"})
    said = tools.run("show", "$(touch x); *").out
    assert said == f"{tools.path}|C.UTF-8|/home/me|$(touch x); *\n"
    assert tools.run("no-such-program").code == 127


def test_two_at_once_and_a_file_in_the_way(shop: Shop, store: Store, tmp_path: Path) -> None:
    with store.locked(), pytest.raises(UserError, match="another fetch is writing to"):
        run(shop, store)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is a file; give a folder"):
        run(shop, Store(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"


def test_a_source_that_is_left_out_later_is_taken_out(shop: Shop, store: Store) -> None:
    run(shop, store)
    planned = plan(CORPUS, shop.tools, frozenset({"tales"}))
    assert is_current(store, planned) is None
    fetched = run(shop, store, without="tales")
    assert fetched.made == ()
    assert "tales" not in [record["name"] for record in fetched.manifest["sources"]]
    assert not (store.folder / "text" / "tales.jsonl").exists()
    assert is_current(store, planned) == fetched.manifest


def test_the_folder_of_another_corpus_is_refused(shop: Shop, store: Store) -> None:
    first = run(shop, store)
    other = replace(CORPUS, name="other")
    with pytest.raises(UserError, match="holds 'small', not 'other'; give 'other' another folder"):
        fetch(other, plan(other, shop.tools), store, shop.tools, Lines())
    assert store.manifest() == first.manifest
