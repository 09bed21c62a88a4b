"""The report of one run: what it shows, of every kind of run, whatever is missing."""

import json
import shutil
from pathlib import Path

import pytest

from tests.probe.report.cases import (
    blocks,
    charts,
    document,
    evaluation,
    event,
    run_folder,
    step,
)
from turnout.checkpoint import folders
from turnout.checkpoint.format import signed
from turnout.cli.main import main
from turnout.probe import report
from turnout.probe.report.records import json_lines

Runs = dict[str, Path]
SECTIONS = (
    *("figures", "learning", "events", "routing", "optimisation", "samples", "experts", "setup"),
)


def figures(page: Path) -> dict[str, str]:
    return {item["label"]: item["value"] for item in blocks(page, "figures")[0]["items"]}


def words(page: Path, section: str) -> str:
    return json.dumps(blocks(page, section))


@pytest.fixture(scope="module")
def pages(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("pages")
    bits = {"order 0": 4.0}
    return {form: report.write(run, out / f"{form}.html", bits=bits) for form, run in runs.items()}


@pytest.mark.parametrize("form", ["causal", "span", "dense"])
def test_a_trained_run(runs: Runs, pages: dict[str, Path], form: str):
    page = pages[form]
    content = document(page)
    assert tuple(section["name"] for section in content["sections"]) == SECTIONS
    assert content["title"] == form
    assert content["notices"] == []
    assert [axis["name"] for axis in content["axes"]] == ["steps", "tokens", "time"]
    hidden = "bits per hidden byte" if form == "span" else "bits per byte"
    assert f"{hidden}, held-out text" in figures(page)
    assert figures(page)["steps"] == "3"
    assert ("busiest expert" in figures(page)) == (form != "dense")
    assert "switch_tiny" in content["summary"]
    drawn = charts(content)
    assert drawn["learning"]["data"]["baselines"]["value"] == [4.0]
    assert drawn["learning"]["data"]["saves"]["step"] == [0, 2, 3]
    loads = {"dense": 0, "causal": 1, "span": 2}[form]
    assert sum(name.startswith("load-") for name in drawn) == loads
    assert sum(name.startswith("reads-") for name in drawn) == loads
    assert ("layers-entropy" in drawn) == (form != "dense")
    assert {"gradient-norm", "learning-rate", "speed"} <= drawn.keys()
    for chart in drawn.values():
        assert chart["summary"]
        assert chart["title"]
    setup = words(page, "setup")
    assert "turnout train --resume" in setup
    assert "python" in setup
    assert "threads" in setup
    assert "kind = " in setup


def test_the_page_of_a_run_in_training_is_in_its_folder(runs: Runs):
    # The fixture trained through the command line, which writes the report at its end.
    assert document(runs["causal"] / "report.html")["title"] == "causal"
    assert json.loads((runs["causal"] / "samples.json").read_text())[0]["prompt"] == "def "
    assert len(blocks(runs["causal"] / "report.html", "samples")[0]["items"]) == 3


def test_the_load_of_each_step(runs: Runs, pages: dict[str, Path]):
    records = list(json_lines(runs["causal"] / "metrics.jsonl"))
    steps = [record for record in records if record["kind"] == "step"]
    cells = charts(document(pages["causal"]))["load-0"]["data"]["cells"]
    assigned = steps[1]["layers"]["decoder.1.moe"]["assigned"]
    at = [index for index, last in enumerate(cells["last"]) if last == 2]
    shares = [cells["share"][index] for index in at]
    assert shares == pytest.approx([each / sum(assigned) for each in assigned], abs=1e-4)
    assert [cells["expert"][index] for index in at] == ["0", "1", "2", "3"]


def test_what_each_expert_reads(pages: dict[str, Path]):
    (cards,) = [b for b in blocks(pages["causal"], "experts") if b["type"] == "experts"]
    assert sorted(card["expert"] for card in cards["items"]) == [0, 1, 2, 3]
    assert sum(card["share"] for card in cards["items"]) == pytest.approx(1, abs=1e-4)
    shown = [example for card in cards["items"] for example in card["examples"]]
    assert shown
    for example in shown:
        assert [kind for _, kind in example["pieces"]].count("this") == 1


def test_a_dense_run_says_so(pages: dict[str, Path]):
    assert "dense" in words(pages["dense"], "routing")
    assert "dense" in words(pages["dense"], "experts")


@pytest.mark.parametrize("records", [[step(1)], [step(1, bits=None)], [evaluation(3)]])
def test_a_run_of_one_step_without_checkpoint(tmp_path: Path, records: list[dict]):
    page = report.write(run_folder(tmp_path / "one", records))
    assert page == tmp_path / "one" / "report.html"
    (notice,) = document(page)["notices"]
    assert "no complete checkpoint" in notice
    assert document(page)["summary"] == "The configuration is unknown."
    assert "needs a checkpoint" in words(page, "experts")
    assert "samples.json is not" in words(page, "samples")


def test_events_are_listed_and_marked(tmp_path: Path):
    records = [step(1), step(2), event(2, "rollback", "went back", "decoder.1.moe")]
    page = report.write(run_folder(tmp_path, records))
    (table,) = blocks(page, "events")
    assert table["rows"] == [["2", "rollback", "decoder.1.moe", "went back"]]
    learning = charts(document(page))["learning"]
    assert learning["data"]["events"]["step"] == [2]
    assert "events" in [key["name"] for key in learning["keys"]]


def test_without_its_text_the_rest_is_shown(runs: Runs, tmp_path: Path):
    run = tmp_path / "moved"
    shutil.copytree(runs["dense"], run)
    index = folders.latest(run) / "index.json"
    saved = json.loads(index.read_text())
    saved["meta"]["config"]["data"]["paths"] = [str(tmp_path / "gone")]
    index.write_text(json.dumps(signed(saved)))
    page = report.write(run)
    (notice,) = document(page)["notices"]
    assert notice.startswith("Held-out text was not read: ")
    assert "parameters" in figures(page)


@pytest.mark.parametrize("config", [{"model": 3}, {}, {"model": {"kind": "x"}}, [1]])
def test_a_start_that_does_not_say_the_configuration(tmp_path: Path, config: object):
    run = run_folder(tmp_path, [step(1)])
    (run / "starts.jsonl").write_text(json.dumps({"step": None, "config": config}))
    assert "parameters" not in figures(report.write(run))


def test_many_experts_and_layers_stay_small(tmp_path: Path):
    layers = {
        f"decoder.{i}.moe": {"assigned": list(range(128)), "dropped": 0.0, "entropy": 4.0}
        for i in range(12)
    }
    records = [step(number, layers=layers) for number in range(1, 100)]
    page = report.write(run_folder(tmp_path, records))
    assert page.stat().st_size < 4_000_000
    cells = charts(document(page))["load-0"]["data"]["cells"]
    # 12 layers of 128 experts leave room for 15 spans: 24,000 cells over 1,536 experts.
    assert len(set(cells["step"])) <= 15


def test_a_step_folder_leads_to_its_run(runs: Runs):
    step_folder = folders.latest(runs["dense"])
    assert report.write(step_folder, bits={}) == runs["dense"] / "report.html"


def test_the_command(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "deep" / "page.html"
    assert main(["report", str(runs["dense"]), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert list(out.parent.iterdir()) == [out]


def test_pictures_for_a_readme(runs: Runs, capsys: pytest.CaptureFixture[str]):
    assert main(["report", str(runs["causal"]), "--png"]) == 0
    written = [Path(path) for path in capsys.readouterr().out.splitlines()]
    assert written[0] == runs["causal"] / "report.html"
    names = [path.name for path in written[1:]]
    assert names[:2] == ["learning.png", "load-0.png"]
    for path in written[1:]:
        assert path.parent == runs["causal"] / "pictures"
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 4000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{}/nothing"], "{}/nothing: no such run folder"),
        (["{}"], "{}/metrics.jsonl is missing; give the folder of a run, which has it"),
        (["{}/one", "--out", "{}"], "--out {}: is a folder; name the HTML file"),
        (["{}/one", "{}/one/."], "{}/one: given twice; a comparison takes each run once"),
        (["{}/one", "{}/two", "--png"], "--png: takes one run; its charts go into RUN/pictures"),
    ],
)
def test_bad_arguments_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
):
    run_folder(tmp_path / "one", [step(1)])
    assert main(["report", *(each.format(tmp_path) for each in arguments)]) == 2
    assert capsys.readouterr().err == f"error: {message.format(tmp_path)}\n"


def test_an_old_report_stays_until_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = run_folder(tmp_path / "run", [step(1)])
    (run / "report.html").write_text("the old one")
    monkeypatch.setattr("turnout.probe.report.writing.html", lambda document: "cut \ud800 off")
    with pytest.raises(UnicodeEncodeError):
        report.write(run)
    assert (run / "report.html").read_text() == "the old one"
    assert sorted(path.name for path in run.iterdir()) == ["metrics.jsonl", "report.html"]
