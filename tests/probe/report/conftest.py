"""A run that tries everything it can to break its report."""

import json
import shutil
from pathlib import Path

import pytest

from tests.probe.report.cases import HOSTILE, event, step
from turnout.probe import report


@pytest.fixture(scope="session")
def hostile(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over hostile text whose other files are hostile too; its report is written."""
    folder = tmp_path_factory.mktemp("hostile") / "a<b>&'\"run"
    shutil.copytree(runs["causal"], folder)
    records = [
        event(2, HOSTILE, HOSTILE, HOSTILE),
        event(2, "alarm", "x" * 10_000_000),
        step(4, layers={HOSTILE: {"assigned": [1, 2], "entropy": 0.1}}, terms={HOSTILE: 1.0}),
        step(5, loss=None, bits=None, gradient_norm=None, skipped=HOSTILE),
    ]
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
        file.write('{"kind": "step", "step": 6, "bits": NaN}\n{"kind": "step", "st')
    samples = [
        {"prompt": HOSTILE, "text": HOSTILE + HOSTILE},
        {"prompt": "", "text": "line " * 2_000_000},
    ]
    (folder / "samples.json").write_text(json.dumps(samples))
    start = {"step": 0, "time": HOSTILE, "header": [HOSTILE], "versions": {HOSTILE: HOSTILE}}
    (folder / "starts.jsonl").write_text(json.dumps(start) + "\n{")
    report.write(folder, bits={HOSTILE: 4.0})
    return folder
