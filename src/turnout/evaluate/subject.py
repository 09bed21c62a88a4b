"""What is evaluated: a model, its tokenizer, and the form in which it was trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch

from turnout.config.errors import ConfigError, UserError
from turnout.config.generation import GenerateOptions
from turnout.config.model import EncoderDecoderConfig, ModelConfig
from turnout.config.objective import CausalConfig, ObjectiveConfig, TextToTextConfig
from turnout.convert.api import load
from turnout.convert.conversion import tokenizer_of
from turnout.convert.folder import CONFIG, is_foreign, read_json, within
from turnout.convert.hub import located
from turnout.convert.imitation import imitates
from turnout.data.tokenizers import Tokenizer
from turnout.data.tokenizers.load import from_content
from turnout.evaluate.form import Form, Row, form_of
from turnout.evaluate.likelihood import (
    BATCH_ROWS,
    Likelihood,
    Tell,
    batches,
    likelihoods,
    quiet,
)
from turnout.generate import generate
from turnout.generate.text import StopStrings
from turnout.models.base import Model
from turnout.models.prepared import prepared
from turnout.train.session import load_run, load_tokenizer, saved_config

FORMS = {each.kind: each for each in get_args(ObjectiveConfig)}
LINE_END = "\n"


@dataclass(frozen=True)
class Subject:
    """A model that can be asked.

    Attributes:
        label: of every row, for routers that read one.
    """

    name: str
    model: Model
    form: Form
    label: int | None = None

    def likelihoods(self, rows: Sequence[Row], tell: Tell = quiet) -> list[Likelihood]:
        """See ``turnout.evaluate.likelihood``."""
        return likelihoods(
            self.model,
            rows,
            visible=self.form.visible,
            label=self.label,
            together=self._together,
            tell=tell,
        )

    def answers(
        self, rows: Sequence[Row], new: int, stop: Sequence[str] | None = None, tell: Tell = quiet
    ) -> list[str]:
        """The greedy answer to each prompt, of at most ``new`` tokens; the first ``stop`` ends it.

        What is trained on text goes on for ever, so there a line's end is the stop unless stops are
        given.
        """
        usual = (LINE_END,) if self.form.joined else ()
        texts = usual if stop is None else tuple(stop)
        stops = StopStrings(self.form.tokenizer, texts)
        options = GenerateOptions(
            max_new_tokens=new,
            stop_ids=self.form.stops,
            start_id=self.form.tokenizer.pad,
            visible_prompt=self.form.visible,
            label=self.label,
        )
        prompts = [[*(row.encoder or row.prompt)] for row in rows]
        found: dict[int, str] = {}
        for index in batches([len(prompt) + new for prompt in prompts], self._together):
            taken = [prompts[i] for i in index]
            written = generate(self.model, taken, options, ends=stops if texts else None)
            found |= zip(index, (self._text(tokens, stops) for tokens in written), strict=True)
            tell(len(found), len(rows))
        return [found[index] for index in range(len(rows))]

    @property
    def _together(self) -> int:
        """One row where padding takes slots of experts, so that no row changes another's score."""
        return 1 if imitates(self.model.config) else BATCH_ROWS

    def _text(self, tokens: list[int], stops: StopStrings) -> str:
        """Without what the form had the decoder begin with."""
        begin = self.form.begin[1:]
        shown = tokens[len(begin) :] if tuple(tokens[: len(begin)]) == begin else tokens
        return stops.cut(self.form.tokenizer.decode(shown))


def open_subject(path: str | Path, form: str = "auto", label: int | None = None) -> Subject:
    """The model of a run's folder, of one of its steps, or of a Hugging Face folder.

    Args:
        form: the objective whose form questions take; by default that of the run. A Hugging Face
            folder does not say: a model with an encoder is asked as one that was trained on
            examples, another one as one that was trained on text.
        label: of every row, for routers that read one.

    Raises:
        ConfigError: there is no such form, or the model has none.
        UserError: the folder cannot be read, has no tokenizer, or its weights are not finite.
    """
    if form != "auto" and form not in FORMS:
        raise ConfigError("--form", form, f"one of auto, {', '.join(FORMS)}")
    folder = located(path)
    opened = _foreign(folder) if is_foreign(folder) else _run(folder)
    model, tokenizer, objective, start = opened
    _check_finite(model, str(path))
    if form != "auto":
        objective = objective if objective.kind == form else FORMS[form]()
    shape = form_of(objective, model.config, tokenizer, start)
    return Subject(str(path), prepared(model, pack=False), shape, label)


def check_subject(path: str | Path) -> None:
    """Refuse a folder that holds no model to ask, without reading the model.

    Raises:
        UserError: it has no checkpoint, configuration or tokenizer.
    """
    folder = located(path)
    if not is_foreign(folder):
        load_tokenizer(folder, saved_config(folder))
    elif tokenizer_of(folder) is None:
        raise UserError(_no_tokenizer(folder))


def _no_tokenizer(folder: Path) -> str:
    return f"{folder}: has no tokenizer.json or spiece.model to read tasks with"


Opened = tuple[Model, Tokenizer, ObjectiveConfig, int | None]


def _run(folder: Path) -> Opened:
    config, model = load_run(folder)
    return model, load_tokenizer(folder, config), config.objective, None


def _foreign(folder: Path) -> Opened:
    model = load(folder)
    asked = tokenizer_of(folder)
    if asked is None:
        raise UserError(_no_tokenizer(folder))
    tokenizer = from_content(asked, Path(asked.path).read_bytes())
    return model, tokenizer, _usual(model.config), _start(folder, model.config, tokenizer)


def _start(folder: Path, model: ModelConfig, tokenizer: Tokenizer) -> int:
    """What a text of the folder's model begins with; without a token for it, an end before it."""
    named = read_json(within(folder, CONFIG)).get("bos_token_id")
    if isinstance(named, int) and 0 <= named < model.vocab_size:
        return named
    return tokenizer.eos


def _usual(model: ModelConfig) -> ObjectiveConfig:
    return TextToTextConfig() if model.kind == EncoderDecoderConfig.kind else CausalConfig()


def _check_finite(model: Model, name: str) -> None:
    for part, weight in model.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise UserError(
                f"{name}: {part} holds values that are not finite, and no score means anything; "
                "evaluate an earlier step"
            )
