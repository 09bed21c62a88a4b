"""A protocol that trains in a moment."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.compare.cases import run
from turnout.config.train import DataConfig, RunConfig


@pytest.fixture
def real(text_folder: Path) -> RunConfig:
    """Four steps on a real text, in float32 on one thread."""
    config = run(data=DataConfig(paths=(str(text_folder),)))
    return replace(config, train=replace(config.train, dtype="float32", threads=1))
