"""The teacher of a run: a model that is asked while the student trains, or what it once said."""

from collections.abc import Callable

import torch

from turnout.config.distillation import DistillationConfig
from turnout.config.errors import UserError
from turnout.config.model import ModelConfig
from turnout.config.train import RunConfig
from turnout.convert.api import contents, load
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
    same_tokens(asked.teacher, data, tokenizer_of)
    _check(asked, config.model, contents(asked.teacher).run.model)

    def teacher() -> Model:
        return load(asked.teacher, dtype=dtype)

    if asked.top:
        said = cached(config, data, dtype, teacher, progress)
        return Lesson(Cached(said), asked.soft, asked.until)
    return Lesson(Online(teacher(), asked.temperature), asked.soft, asked.until)


def same_tokens(path: str, data: Data, tokenizer_of: TokenizerOf) -> None:
    """Whether a model reads the tokens of ``data``. A Hugging Face folder's tokenizer is not
    compared, only the size of its vocabulary, with the model.

    Raises:
        UserError: it reads others.
    """
    if is_foreign(located(path)):
        return
    theirs, ours = tokenizer_of(path).fingerprint, data.tokenizer.fingerprint
    if theirs != ours:
        raise UserError(
            f"{path} reads tokens of another vocabulary ({_named(theirs)}) than those of this text "
            f"({_named(ours)}): models that are compared, and a teacher and its student, share "
            "data.tokenizer"
        )


def _named(fingerprint: object) -> str:
    """Short enough for a line."""
    text = str(fingerprint)
    return text if len(text) < 60 else f"{text[:57]}..."


def _check(asked: DistillationConfig, ours: ModelConfig, theirs: ModelConfig) -> None:
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
