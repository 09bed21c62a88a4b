"""Reports in a real browser: nothing is asked for, nothing complains, hostile text is text."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.probe.report.cases import HOSTILE, charts, document, event, run_folder, step
from tests.probe.report.chromium import Page, chromium
from turnout.probe import report
from turnout.probe.report.text import line, shown

pytestmark = pytest.mark.browser

CTRL = 2  # as the debugging protocol counts modifiers

SEEN = """[...document.querySelectorAll(".plot")].map(plot => {
  const shapes = plot.querySelectorAll("svg path, svg line, svg text").length;
  const canvas = plot.querySelector("canvas");
  const box = plot.getBoundingClientRect();
  return {shapes: canvas ? 1000 : shapes, wide: box.width, tall: box.height,
          label: plot.getAttribute("aria-label")};
})"""


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with chromium(tmp_path / "profile") as found:
        yield found


@pytest.fixture(scope="module")
def comparison(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folders = [runs["causal"], runs["dense"], runs["span"]]
    return report.compare(folders, tmp_path_factory.mktemp("compare") / "compare.html")


def quiet(page: Page, path: Path) -> None:
    """The page asked for nothing but itself, and nobody complained."""
    assert [url for url in page.requests() if not url.startswith("data:")] == [
        path.resolve().as_uri()
    ]
    assert page.messages() == []


def texts(page: Page, selector: str) -> list[str]:
    return page.value(f"[...document.querySelectorAll({selector!r})].map(e => e.textContent)")


@pytest.mark.parametrize(("width", "dark"), [(1600, False), (1600, True), (360, False)])
def test_every_chart_is_drawn(page: Page, runs: dict[str, Path], width: int, dark: bool):
    path = runs["causal"] / "report.html"
    assert page.open(path, width=width, dark=dark) == len(charts(document(path)))
    for plot in page.value(SEEN):
        assert plot["shapes"] > 5
        assert plot["wide"] > 200
        assert plot["tall"] > 50
        assert plot["label"]
    assert page.value("document.documentElement.scrollWidth") == width
    quiet(page, path)


def test_hostile_text_is_text(page: Page, hostile: Path):
    path = hostile / "report.html"
    page.open(path)
    samples = texts(page, ".samples pre")
    assert samples[0] == shown(HOSTILE) * 2
    assert len(samples[1]) < 5000
    assert texts(page, "#events tbody tr:first-child td")[-1] == line(HOSTILE, 500)
    assert "</script><script>alert(1)" in texts(page, "#events")[0]
    assert "\U0001f600" in samples[0]
    assert texts(page, "h1") == ["a<b>&'\"run"]
    # The two scripts and the island are all there is; no image, no other element was made.
    assert page.value("document.scripts.length") == 3
    assert page.value("document.images.length") == 0
    assert page.value("document.querySelectorAll('main script, main iframe, main b b').length") == 0
    quiet(page, path)


def test_text_from_right_to_left_stays_in_its_place(page: Page, hostile: Path):
    page.open(hostile / "report.html")
    style = "getComputedStyle(document.querySelector('.samples bdi')).unicodeBidi"
    assert page.value(style) == "plaintext"
    assert page.value("getComputedStyle(document.querySelector('h1 bdi')).unicodeBidi") == "isolate"
    assert page.value("getComputedStyle(document.querySelector('h1')).direction") == "ltr"


def test_the_axis_and_the_theme_can_be_changed(page: Page, runs: dict[str, Path]):
    path = runs["causal"] / "report.html"
    page.open(path)
    learning = "document.querySelector('#chart-learning svg').textContent"
    assert "optimiser steps" in page.value(learning)
    page.value("document.querySelector('input[name=axis][value=\"1\"]').click()")
    assert until(page, f"{learning}.includes('tokens') && !{learning}.includes('steps')")
    light = "document.querySelector('#chart-learning svg').innerHTML.includes('#b7cfeb')"
    assert page.value(light)
    scheme = {"name": "prefers-color-scheme", "value": "dark"}
    page.ask("Emulation.setEmulatedMedia", features=[scheme])
    assert until(page, f"document.documentElement.dataset.theme === 'dark' && !({light})")
    quiet(page, path)


def test_a_tooltip_is_text(page: Page, runs: dict[str, Path]):
    path = runs["causal"] / "report.html"
    page.open(path)
    page.value("document.querySelector('#chart-load-0').scrollIntoView({block: 'center'})")
    page.value("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    box = page.value(
        "(({x, y, width, height}) => [x + width / 2, y + height / 3])"
        "(document.querySelector('#chart-load-0 svg').getBoundingClientRect())"
    )
    page.ask("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])
    assert until(page, "!document.getElementById('tip').hidden")
    assert "share of the tokens" in page.value("document.getElementById('tip').textContent")
    quiet(page, path)


def test_the_wheel_zooms_with_ctrl_and_scrolls_without(page: Page, runs: dict[str, Path]):
    path = runs["causal"] / "report.html"
    page.open(path)
    ticks = (
        "[...document.querySelectorAll('#chart-learning .role-axis-label text')]"
        ".map(each => each.textContent).join(' ')"
    )
    before = page.value(ticks)
    x, y = page.value(
        "(({x, y, width, height}) => [x + width / 2, y + height / 2])"
        "(document.querySelector('#chart-learning svg').getBoundingClientRect())"
    )
    wheel = {"type": "mouseWheel", "x": x, "y": y, "deltaX": 0}
    page.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    page.ask("Input.dispatchMouseEvent", **wheel, deltaY=-900, modifiers=CTRL)
    assert until(page, f"{ticks} !== {before!r}")
    assert page.value("window.scrollY") == 0
    zoomed = page.value(ticks)
    page.ask("Input.dispatchMouseEvent", **wheel, deltaY=200, modifiers=0)
    assert until(page, "window.scrollY > 0")
    assert page.value(ticks) == zoomed
    quiet(page, path)


def test_it_can_be_walked_by_keyboard_and_by_headings(page: Page, runs: dict[str, Path]):
    page.open(runs["causal"] / "report.html")
    levels = page.value("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    targets = page.value(
        "[...document.querySelectorAll('nav a')].every(a => document.querySelector(a.hash))"
    )
    assert targets is True
    heads = "[...document.querySelectorAll('thead th')].every(th => th.scope === 'col')"
    assert page.value(heads) is True
    page.ask("Input.dispatchKeyEvent", type="keyDown", key="Tab", code="Tab")
    assert page.value("document.activeElement.className") == "skip"


@pytest.mark.parametrize("width", [1600, 360])
def test_a_comparison(page: Page, comparison: Path, width: int):
    assert page.open(comparison, width=width) == 2
    assert all(plot["shapes"] > 10 for plot in page.value(SEEN))
    assert texts(page, "#figures div:first-of-type tbody th") == ["causal", "dense", "span"]
    assert any("different units" in text for text in texts(page, ".notice"))
    page.value("document.querySelector('input[name=axis][value=\"2\"]').click()")
    drawing = "document.querySelector('#chart-training svg').textContent"
    assert until(page, f"{drawing}.includes('FLOPs of training')")
    assert page.value("document.documentElement.scrollWidth") == width
    quiet(page, comparison)


@pytest.mark.parametrize(
    "records",
    [
        [step(1)],
        [step(1, bits=None, loss=None), step(2, bits=None, layers={})],
        [step(1, layers={}), step(2, layers={}), event(1, "alarm", HOSTILE)],
        [step(number, bits=0.0, gradient_norm=0.0, tokens=None) for number in range(1, 9)],
        [step(1, layers={"a": {"assigned": [0, 0]}, "b": {"assigned": [5]}})],
    ],
)
def test_meagre_runs(page: Page, tmp_path: Path, records: list[dict[str, Any]]):
    path = report.write(run_folder(tmp_path / "run", records))
    assert page.open(path) == len(charts(document(path)))
    quiet(page, path)


def test_the_listener_hears_requests_and_complaints(page: Page, tmp_path: Path):
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<html data-drawn=1><img src='http://127.0.0.1:9/x'><script>throw new Error('no')</script>"
    )
    page.open(bad)
    assert "http://127.0.0.1:9/x" in page.requests()
    assert any("no" in message for message in page.messages())


def until(page: Page, condition: str) -> bool:
    """Whether a condition comes true while the page has time."""
    return page.value(
        "new Promise(done => { let left = 300; const look = () => "
        f"({condition}) ? done(true) : left-- ? setTimeout(look, 30) : done(false); look(); }})"
    )
