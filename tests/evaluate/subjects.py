"""Small subjects over bytes, with random weights, and tasks on disk."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.models.cases import CASES
from turnout.config.model import EncoderDecoderConfig, ModelConfig
from turnout.config.objective import ObjectiveConfig
from turnout.data.tokenizers.byte import ByteTokenizer
from turnout.evaluate.form import form_of
from turnout.evaluate.subject import Subject
from turnout.models import Model, build

BYTES = ByteTokenizer()
LENGTH = 64


def config_of(case: str, length: int = LENGTH, **moe: Any) -> ModelConfig:
    """A configuration of ``tests.models.cases`` over bytes, with rows of that length."""
    config = CASES[case]
    if moe:
        assert config.moe is not None
        config = replace(config, moe=replace(config.moe, **moe))
    if isinstance(config, EncoderDecoderConfig):
        rows = {"encoder_length": length, "decoder_length": length}
        return replace(config, vocab_size=BYTES.vocab_size, **rows)
    return replace(config, vocab_size=BYTES.vocab_size, length=length)


def model_of(config: ModelConfig, seed: int = 0) -> Model:
    model = build(config)
    model.init_weights(seed)
    return model.eval()


def subject_of(case: str, objective: ObjectiveConfig, length: int = LENGTH, **moe: Any) -> Subject:
    model = model_of(config_of(case, length, **moe))
    return Subject(case, model, form_of(objective, model.config, BYTES))


def write_lines(path: Path, entries: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def write_task(folder: Path, text: str, **splits: Sequence[Any]) -> Path:
    """A folder with a ``task.toml`` and a file for each split."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "task.toml").write_text(text)
    for name, entries in splits.items():
        write_lines(folder / f"{name}.jsonl", entries)
    return folder
