"""What a run writes down when it starts."""

import json
from pathlib import Path

from turnout.config import io, presets
from turnout.config.train import RunConfig
from turnout.train.hooks.base import End, Start
from turnout.train.hooks.starts import STARTS, StartsWriter


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / STARTS).read_text().splitlines()]


def test_a_line_for_each_start(tmp_path: Path):
    run = presets.run("switch_tiny")
    for step in (0, 7):
        hook = StartsWriter(tmp_path / "run")
        hook.on_start(Start(run, step, ("the header",)))
        hook.on_end(End(step, False, None))
    first, second = records(tmp_path / "run")
    assert (first["step"], second["step"]) == (0, 7)
    assert io.from_dict(RunConfig, first["config"]) == run
    assert first["header"] == ["the header"]
    assert {"python", "turnout", "torch"} <= first["versions"].keys()
    assert first["machine"]["cores"] >= 1
    assert first["time"].endswith("+00:00")


def test_a_fresh_run_forgets_an_older_one(tmp_path: Path):
    run = presets.run("switch_tiny")
    for _ in range(2):
        StartsWriter(tmp_path).on_start(Start(run, 0, ()))
    assert len(records(tmp_path)) == 1
