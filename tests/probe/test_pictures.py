"""Pictures: what they encode, hostile labels, many layers and experts, and the PNG itself."""

import struct
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from turnout.config.errors import UserError
from turnout.probe import pictures
from turnout.probe.characters import CLASSES
from turnout.probe.curve import Curve, Point
from turnout.probe.expert_map import shown_layers, sorted_experts
from turnout.probe.learning_curve import MOST_POINTS, Frame, corner
from turnout.probe.reading import LayerRecord, Reading, summarise
from turnout.probe.style import smaller

HOSTILE = "</script>\0\"'\\ שלום \u202e <b>&amp;{{datum.x}}\n]]> \ud800"
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def reading(experts: int = 4, layers: int = 1, tokens: int = 400, name: str = "decoder") -> Reading:
    random = np.random.default_rng(0)
    ids = random.integers(0, 384, (1, tokens))
    mask = np.ones_like(ids, dtype=bool)
    return summarise(
        LayerRecord(f"{name}.{i}.moe", "decoder", experts, ids, mask, ids[..., None] % experts)
        for i in range(layers)
    )


def curve(steps: int = 60) -> Curve:
    training = tuple(Point(i, 2 + 7 / i) for i in range(1, steps + 1))
    return Curve(training, tuple(Point(i, 2.1 + 7 / i) for i in range(10, steps + 1, 10)))


def size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data[:8] == SIGNATURE
    assert len(data) > 10_000
    return struct.unpack(">II", data[16:24])


def strings(spec: object) -> list[str]:
    if isinstance(spec, str):
        return [spec]
    parts = spec.values() if isinstance(spec, dict) else spec if isinstance(spec, list) else ()
    return [text for part in parts for text in strings(part)]


def marks(spec: object, kind: str) -> list[dict]:
    """The views of a specification whose mark is of a kind."""
    if isinstance(spec, list):
        return [found for part in spec for found in marks(part, kind)]
    if not isinstance(spec, dict):
        return []
    own = [spec] if isinstance(spec.get("mark"), dict) and spec["mark"]["type"] == kind else []
    return own + [found for part in spec.values() for found in marks(part, kind)]


def rows(spec: dict, view: dict) -> list[dict]:
    return view["data"].get("values") or spec["datasets"][view["data"]["name"]]


def test_the_picture_of_a_sparse_run(tmp_path: Path):
    chart = pictures.run_picture(curve(), {"order 0": 4.7, "order 5": 1.9}, reading(8, 2), "A", "B")
    width, height = size(pictures.save(chart, tmp_path / "picture.png"))
    assert 2600 <= width <= 3000
    assert 1200 <= height <= 2000


def test_titles_say_what_is_measured():
    texts = strings(pictures.run_picture(curve(), {}, reading(), "A", "B").to_dict())
    for exact in (
        "colour: how much more often than average an expert reads a class of characters (log2)",
        "bits per byte; lower is better",
        "training batch",
        "mean of 5 batches",
        "held-out text",
    ):
        assert exact in texts


def test_a_dense_run_is_the_curve_alone(tmp_path: Path):
    chart = pictures.run_picture(curve(), {"order 0": 4.7}, Reading(CLASSES, 0, ()), "A", "B")
    assert marks(chart.to_dict(), "rect") == []
    size(pictures.save(chart, tmp_path / "picture.png"))


def test_hostile_labels(tmp_path: Path):
    found = reading(name=HOSTILE)
    chart = pictures.run_picture(curve(), {HOSTILE: 3.0}, found, HOSTILE, HOSTILE, "bits")
    assert all(
        text.replace("\u00a0", " ").isprintable() for text in strings(chart.to_dict()) if text
    )
    size(pictures.save(chart, tmp_path / "picture.png"))


@pytest.mark.parametrize(
    "drawn",
    [
        Curve((Point(1, 8.0),), ()),
        Curve((), (Point(3, 2.0),)),
        Curve((Point(1, 2.0), Point(2, 2.0)), (Point(2, 2.0),)),
    ],
    ids=["one step", "one evaluation", "flat"],
)
def test_a_short_curve(tmp_path: Path, drawn: Curve):
    chart = pictures.learning_curve(drawn, {})
    assert pictures.save(chart, tmp_path / "curve.png").read_bytes()[:8] == SIGNATURE


def test_a_long_run_is_thinned_out():
    spec = pictures.learning_curve(curve(6_001), {}).to_dict()
    lengths = [len(rows(spec, view)) for view in marks(spec, "line")]
    assert max(lengths) <= MOST_POINTS
    assert min(lengths[:2]) > MOST_POINTS / 2 - 1


def test_the_axis_leaves_out_the_first_steps():
    # Baselines 4.7 and 1.9; the run starts at 9 and is below 4.7 from step 3 on.
    spec = pictures.learning_curve(curve(), {"order 0": 4.7, "order 5": 1.9}).to_dict()
    low, high = marks(spec, "line")[0]["encoding"]["y"]["scale"]["domain"]
    assert 1.4 < low < 1.9
    assert 4.7 < high < 5.5


def test_the_name_of_a_rule_stands_where_the_curve_is_not():
    # 100 steps from 5 bits down to 2 at the half, then flat; 15 letters are a quarter of 440 and
    # two lines of text 28 / 440 of 5 bits, 0.32.
    bits = [max(5 - 3 * step / 50, 2.0) for step in range(101)]
    drawn = Curve(tuple(map(Point, range(101), bits)), ())
    frame = Frame(1.0, 6.0, 100, (440, 440))
    assert corner(drawn, 4.0, 15, frame) == ("right", True)
    # Just below the flat half: above it on the right is the curve, below on the left is nothing.
    assert corner(drawn, 1.9, 15, frame) == ("left", False)
    # Just above it: the curve is below on the right only, and far away above.
    assert corner(drawn, 2.1, 15, frame) == ("right", True)
    # The held-out text counts as well: now it is in the way there.
    held_out = Curve(drawn.training, tuple(Point(step, 2.3) for step in range(60, 101, 10)))
    assert corner(held_out, 2.1, 15, frame) == ("left", False)


def test_cells_are_log2_of_lift_within_8_times():
    # Expert 0 reads all a, expert 1 all digits, half of the tokens each: 2 times and never.
    ids = np.array([[ord("a") + 3, ord("1") + 3]])
    record = LayerRecord("x", "decoder", 2, ids, ids > 0, np.array([[[0], [1]]]))
    spec = pictures.expert_map(summarise([record])).to_dict()
    (heat,) = marks(spec, "rect")
    cells = {(row["expert"], row["class"]): row["lift"] for row in rows(spec, heat)}
    assert cells == {
        ("0", "a to z"): 1.0,
        ("0", "0 to 9"): -3.0,
        ("1", "a to z"): -3.0,
        ("1", "0 to 9"): 1.0,
    }
    assert heat["encoding"]["color"]["scale"]["domain"] == [-3, 3]


def test_an_idle_expert_has_no_colour_and_comes_last():
    ids = np.array([[ord("1") + 3, ord("a") + 3]])
    record = LayerRecord("x", "decoder", 3, ids, ids > 0, np.array([[[1], [2]]]))
    found = summarise([record])
    # Letters stand before digits: expert 2, expert 1, and expert 0, which reads nothing.
    assert [expert.expert for expert in sorted_experts(found.layers[0])] == [2, 1, 0]
    spec = pictures.expert_map(found).to_dict()
    assert {row["expert"] for row in rows(spec, marks(spec, "rect")[0])} == {"1", "2"}


def test_layers_and_experts_that_do_not_fit():
    found = reading(experts=8, layers=9)
    assert [layer.name for layer in shown_layers(found, 24)] == [
        f"decoder.{i}.moe" for i in range(3)
    ]
    assert "Which expert reads what (3 of 9 sparse layers)" in strings(
        pictures.expert_map(found, 24).to_dict()
    )
    wide = pictures.expert_map(reading(experts=64), 24).to_dict()
    assert any(text.endswith("the busiest 24 of 64") for text in strings(wide))
    assert len({row["expert"] for row in rows(wide, marks(wide, "bar")[0])}) == 24


def test_the_layers_shown_are_those_that_differ_most():
    first, second = reading(experts=8, layers=2).layers
    information = replace(second.class_information, bits=first.class_information.bits + 1)
    better = replace(second, class_information=information)
    assert shown_layers(Reading(CLASSES, 0, (first, better)), 8) == (better,)


def test_recompression_keeps_every_pixel():
    header = b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0\7" * 1, 0)
    png = SIGNATURE + b"".join(
        struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c))
        for k, c in (header, (b"IDAT", pixels[:5]), (b"IDAT", pixels[5:]), (b"IEND", b""))
    )
    found = smaller(png)
    assert found[:33] == png[:33]
    assert found.endswith(png[-12:])
    (length,) = struct.unpack(">I", found[33:37])
    assert found[37:41] == b"IDAT"
    assert zlib.decompress(found[41 : 41 + length]) == b"\0\7"
    assert struct.unpack(">I", found[41 + length : 45 + length])[0] == zlib.crc32(
        found[37 : 41 + length]
    )


@pytest.mark.parametrize("missing", ["altair", "vl_convert"])
def test_a_missing_library_names_the_command(missing: str, monkeypatch: pytest.MonkeyPatch):
    assert pictures.available()
    monkeypatch.setitem(sys.modules, missing, None)
    assert not pictures.available()
    with pytest.raises(UserError) as caught:
        pictures.learning_curve(curve(), {})
    assert "pip install 'turnout[pictures]'" in str(caught.value)
    assert "\n" not in str(caught.value)
