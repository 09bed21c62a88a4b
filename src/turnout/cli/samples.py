"""Prompts as text, completed, answered or filled; ``___`` marks a blank for span models."""

from dataclasses import replace
from functools import singledispatch

from turnout.config.errors import UserError
from turnout.config.generation import GenerateOptions
from turnout.config.model import EncoderDecoderConfig, ModelConfig
from turnout.config.objective import (
    CausalConfig,
    ObjectiveConfig,
    PrefixConfig,
    SpanConfig,
    TextToTextConfig,
)
from turnout.data.tokenizers import ByteTokenizer
from turnout.generate import generate
from turnout.models.base import Model

BLANK = "___"


def answer(
    model: Model, objective: ObjectiveConfig, prompts: list[str], options: GenerateOptions
) -> list[str]:
    """Each prompt with what the model makes of it; the answer alone for text to text.

    Raises:
        UserError: a prompt the model cannot take.
    """
    ids = [prompt_ids(objective, model.config, prompt) for prompt in prompts]
    options = replace(options, visible_prompt=objective.visible_prompt)
    new = generate(model, ids, options)
    return [_told(objective, prompt, out) for prompt, out in zip(prompts, new, strict=True)]


def prompt_ids(objective: ObjectiveConfig, model: ModelConfig, prompt: str) -> list[int]:
    """What the model reads: as in training, a document begins behind the start id in a decoder,
    and what an encoder reads has an end.

    Raises:
        UserError: a prompt without a blank, where blanks are filled.
    """
    return _asked(objective, prompt, model.kind == EncoderDecoderConfig.kind)


@singledispatch
def _asked(objective: object, prompt: str, encoder: bool) -> list[int]:
    raise TypeError(f"no prompts for {type(objective).__name__}")


@_asked.register
def _(objective: CausalConfig, prompt: str, encoder: bool) -> list[int]:
    return [ByteTokenizer.pad, *ByteTokenizer().encode(prompt)]


@_asked.register
def _(objective: SpanConfig, prompt: str, encoder: bool) -> list[int]:
    if BLANK not in prompt:
        raise UserError(f"prompt {prompt!r}: this model fills blanks; mark them with {BLANK}")
    return blanked(prompt)


@_asked.register
def _(objective: PrefixConfig, prompt: str, encoder: bool) -> list[int]:
    ids = ByteTokenizer().encode(prompt)
    return [*ids, ByteTokenizer.eos] if encoder else [ByteTokenizer.pad, *ids]


@_asked.register
def _(objective: TextToTextConfig, prompt: str, encoder: bool) -> list[int]:
    start = [] if encoder else [ByteTokenizer.pad]
    return [*start, *ByteTokenizer().encode(prompt), ByteTokenizer.eos]


@singledispatch
def _told(objective: object, prompt: str, output: list[int]) -> str:
    """The prompt and what follows it."""
    return prompt + ByteTokenizer().decode(output)


@_told.register
def _(objective: SpanConfig, prompt: str, output: list[int]) -> str:
    """The prompt with every blank filled, the fillings in [brackets]."""
    return filled(prompt, output)


@_told.register
def _(objective: TextToTextConfig, prompt: str, output: list[int]) -> str:
    return ByteTokenizer().decode(output)


def blanked(prompt: str) -> list[int]:
    """What the encoder reads: each blank a sentinel, an end of text behind."""
    tokenizer = ByteTokenizer()
    first, *others = prompt.split(BLANK)
    ids = tokenizer.encode(first)
    for index, part in enumerate(others):
        ids += [tokenizer.sentinel(index), *tokenizer.encode(part)]
    return [*ids, tokenizer.eos]


def filled(prompt: str, output: list[int]) -> str:
    """The prompt with what the decoder wrote behind each sentinel in its blank's place."""
    tokenizer = ByteTokenizer()
    first, *others = prompt.split(BLANK)
    sentinels = [tokenizer.sentinel(index) for index in range(len(others))]
    spans: dict[int, list[int]] = {sentinel: [] for sentinel in sentinels}
    current: list[int] = []
    for token in output:
        current = spans.get(token, []) if not tokenizer.is_byte(token) else current
        if tokenizer.is_byte(token):
            current.append(token)
    return first + "".join(
        f"[{tokenizer.decode(spans[sentinel])}]{part}"
        for sentinel, part in zip(sentinels, others, strict=True)
    )
