"""The teacher of a run: a model that is asked while the student trains, or what it once said."""

from collections.abc import Callable

import torch

from turnout.config.distillation import DistillationConfig
from turnout.config.errors import UserError
from turnout.config.train import RunConfig
from turnout.convert.api import load
from turnout.convert.folder import is_foreign
from turnout.convert.hub import located
from turnout.data.pipeline import Data
from turnout.data.progress import Progress
from turnout.data.tokenizers import Tokenizer
from turnout.models.base import Model
from turnout.objectives import Lesson
from turnout.objectives.soft_targets import Online
from turnout.train.teacher_cache import Cached, cached

TokenizerOf = Callable[[str], Tokenizer]


def open_lesson(
    config: RunConfig,
    data: Data,
    dtype: torch.dtype,
    tokenizer_of: TokenizerOf,
    progress: Progress | None = None,
) -> Lesson | None:
    """What the run's teacher adds to its objective; None without one.

    Args:
        tokenizer_of: reads that of a run's folder.
        progress: is told while the teacher is asked beforehand.

    Raises:
        UserError: there is no such model, or it reads other tokens or other rows than the student.
    """
    asked = config.distillation
    if asked is None:
        return None
    _same_tokens(asked, data, tokenizer_of)

    def teacher() -> Model:
        model = load(asked.teacher, dtype=dtype)
        _check(asked, config, model)
        return model

    if asked.top:
        return Lesson(Cached(cached(config, data, teacher, progress)), asked.soft, asked.until)
    return Lesson(Online(teacher(), asked.temperature), asked.soft, asked.until)


def _same_tokens(asked: DistillationConfig, data: Data, tokenizer_of: TokenizerOf) -> None:
    """A Hugging Face folder's tokenizer is compared by its size alone, with the model."""
    if is_foreign(located(asked.teacher)):
        return
    theirs, ours = tokenizer_of(asked.teacher).fingerprint, data.tokenizer.fingerprint
    if theirs != ours:
        raise UserError(
            f"distillation.teacher: {asked.teacher} reads tokens of another vocabulary "
            f"({_named(theirs)}) than the student ({_named(ours)}): give the student the teacher's "
            "data.tokenizer"
        )


def _named(fingerprint: object) -> str:
    """Short enough for a line."""
    text = str(fingerprint)
    return text if len(text) < 60 else f"{text[:57]}..."


def _check(asked: DistillationConfig, config: RunConfig, teacher: Model) -> None:
    ours, theirs = config.model, teacher.config
    if theirs.kind != ours.kind:
        raise UserError(
            f"distillation.teacher: {asked.teacher} is of the kind {theirs.kind!r}, must be "
            f"{ours.kind!r} as the student is: both read the same rows"
        )
    if theirs.vocab_size != ours.vocab_size:
        raise UserError(
            f"distillation.teacher: {asked.teacher} has {theirs.vocab_size} entries in its "
            f"vocabulary, must have the student's {ours.vocab_size}"
        )
    if asked.top > theirs.vocab_size:
        raise UserError(
            f"distillation.top = {asked.top}: must be at most {theirs.vocab_size}, the vocabulary"
        )
