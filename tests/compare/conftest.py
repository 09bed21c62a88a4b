"""A protocol that trains in a moment."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.compare.cases import run
from turnout.config.train import DataConfig, RunConfig


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    for number in range(12):
        lines = [f"def f{number}_{i}(x):\n    return x + {i * number}\n" for i in range(40)]
        (folder / f"{number:02d}.py").write_text("\n".join(lines))
    return folder


@pytest.fixture
def real(text_folder: Path) -> RunConfig:
    """Four steps on a real text, in float32 on one thread."""
    config = run(data=DataConfig(paths=(str(text_folder),)))
    return replace(config, train=replace(config.train, dtype="float32", threads=1))
