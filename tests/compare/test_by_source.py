"""Sparse against dense by source: by hand from records, and through the command."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from turnout.checkpoint import folders
from turnout.checkpoint.write import save
from turnout.cli.main import main
from turnout.compare.by_source import bars, by_source, draw, source_tracks
from turnout.config.errors import UserError


def written(
    folder: Path,
    losses: Mapping[str, Mapping[int, float | None]],
    rows: int = 8,
    text: str = "a",
    tokenizer: str = "bytes",
    length: int = 64,
    data: Mapping[str, object] | None = None,
) -> Path:
    """A run's records with those evaluations, and a checkpoint that says what it read."""
    config = {"train": {"batch_rows": rows}, "objective": {"kind": "causal"}}
    config |= {"model": {"length": length}, "data": dict(data or {}) | {"cache": str(folder)}}
    meta = {"text": text, "tokenizer": tokenizer, "config": config}
    save(folders.step_folder(folder, 1), {"x": torch.zeros(1)}, meta)
    steps = sorted({step for track in losses.values() for step in track})
    lines = [
        {
            "kind": "evaluation",
            "step": step,
            "sources": {name: track[step] for name, track in losses.items() if step in track},
        }
        for step in steps
    ]
    step = {"kind": "step", "step": 1}
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, [step, *lines])) + "\n")
    return folder


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    dense = {"de": {10: 4.0, 20: 3.0}, "fr": {10: 4.0, 20: 3.0}, "ja": {10: 4.0, 20: 3.0}}
    sparse = {"de": {10: 3.5, 20: 2.5}, "fr": {10: 3.0, 20: 2.0}, "ja": {10: 5.0, 20: 3.5}}
    return written(tmp_path / "dense", dense), written(tmp_path / "sparse", sparse)


def test_speed_ups_by_hand(pair: tuple[Path, Path]) -> None:
    found = by_source(*pair)
    # de: 3.0 lies halfway between 3.5 at step 10 and 2.5 at step 20: 20 / 15. fr: at the first
    # evaluation, so 20 / 10 or more. ja: never.
    assert found.speed_ups["de"].value == pytest.approx(20 / 15)
    assert found.speed_ups["fr"].text() == "at least 2.00"
    assert found.speed_ups["ja"].text() == "not reached"
    assert found.dense == {"de": 3.0, "fr": 3.0, "ja": 3.0}
    assert found.sparse == {"de": 2.5, "fr": 2.0, "ja": 3.5}
    assert found.line == (
        "speed-up by source: minimum 1.33, mean 1.67, maximum 2.00; not reached by 1 of 3"
    )


def test_bars_by_hand() -> None:
    # 1.3 begins a bar and is not the end of the one before, whatever 13 * 0.1 is in binary.
    assert list(bars([1.31, 1.3, 1.39, 1.4]).items()) == [
        (pytest.approx(1.3), 3),
        (pytest.approx(1.4), 1),
    ]
    assert bars([]) == {}


def test_nothing_reached_is_said(tmp_path: Path) -> None:
    dense = written(tmp_path / "d", {"de": {1: 1.0}})
    sparse = written(tmp_path / "s", {"de": {1: None}})  # a loss that was not finite
    assert by_source(dense, sparse).line == (
        "speed-up by source: none was reached; not reached by 1 of 1"
    )


def test_the_command_draws(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    dense, sparse = pair
    assert main(["compare", "--by-source", str(dense), str(sparse)]) == 0
    assert "minimum 1.33, mean 1.67" in capsys.readouterr().out
    assert (sparse / "by-source.png").read_bytes().startswith(b"\x89PNG")
    figures = json.loads((sparse / "by-source.json").read_text())
    assert figures["ja"]["speed_up"] is None


def test_runs_without_sources_or_with_others(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    plain = written(tmp_path / "plain", {"": {}})
    with pytest.raises(UserError, match="was not evaluated by source"):
        source_tracks(plain)
    with pytest.raises(UserError, match=r"metrics\.jsonl is missing"):
        source_tracks(tmp_path / "nowhere")
    other = written(tmp_path / "other", {"de": {1: 1.0}})
    with pytest.raises(UserError, match="different sources: fr, ja"):
        by_source(pair[0], other)


def test_runs_on_other_rows_or_other_text_are_refused(tmp_path: Path) -> None:
    losses = {"de": {1: 1.0, 2: 0.5}}
    one = written(tmp_path / "one", losses)
    with pytest.raises(UserError, match=r"differ in train\.batch_rows"):
        by_source(one, written(tmp_path / "wider", losses, rows=16))
    with pytest.raises(UserError, match="differ in text"):
        by_source(one, written(tmp_path / "other", losses, text="b"))
    with pytest.raises(UserError, match="differ in tokenizer"):
        by_source(one, written(tmp_path / "pieces", losses, tokenizer="pieces"))
    with pytest.raises(UserError, match="differ in length"):
        by_source(one, written(tmp_path / "longer", losses, length=128))
    with pytest.raises(UserError, match="differ in data"):
        by_source(one, written(tmp_path / "weights", losses, data={"mixture": {"de": 2.0}}))
    by_source(one, written(tmp_path / "alike", losses))  # though its cache is elsewhere


def test_a_picture_of_nothing_is_one(tmp_path: Path) -> None:
    dense, sparse = (written(tmp_path / name, {"de": {1: 1.0}}) for name in "ab")
    assert draw(by_source(dense, sparse), tmp_path).is_file()
