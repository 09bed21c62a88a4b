"""Prompts as text, completed or filled; ``___`` marks a blank for models that fill spans."""

from dataclasses import replace
from functools import singledispatch

from turnout.config.errors import UserError
from turnout.config.generation import GenerateOptions
from turnout.config.model import DecoderOnlyConfig, EncoderDecoderConfig
from turnout.data.tokenizers import Tokenizer
from turnout.generate import generate
from turnout.models.base import Model

BLANK = "___"


def answer(
    model: Model, tokenizer: Tokenizer, prompts: list[str], options: GenerateOptions
) -> list[str]:
    """Each prompt with what the model makes of it; an end of text ends it.

    Raises:
        UserError: a prompt the model cannot take.
    """
    ended = replace(options, stop_ids=(tokenizer.eos,), start_id=tokenizer.pad)
    return _answer(model.config, model, tokenizer, prompts, ended)


@singledispatch
def _answer(
    config: object,
    model: Model,
    tokenizer: Tokenizer,
    prompts: list[str],
    options: GenerateOptions,
) -> list[str]:
    raise UserError(f"model = {config!r}: no such model family")


@_answer.register
def _continue(
    config: DecoderOnlyConfig,
    model: Model,
    tokenizer: Tokenizer,
    prompts: list[str],
    options: GenerateOptions,
) -> list[str]:
    """The prompt and its continuation; in training a document begins behind the start id."""
    ids = [[tokenizer.pad, *tokenizer.encode(prompt)] for prompt in prompts]
    new = generate(model, ids, options)
    return [prompt + tokenizer.decode(out) for prompt, out in zip(prompts, new, strict=True)]


@_answer.register
def _fill(
    config: EncoderDecoderConfig,
    model: Model,
    tokenizer: Tokenizer,
    prompts: list[str],
    options: GenerateOptions,
) -> list[str]:
    """The prompt with every blank filled, the fillings in [brackets]."""
    for prompt in prompts:
        if BLANK not in prompt:
            raise UserError(f"prompt {prompt!r}: this model fills blanks; mark them with {BLANK}")
    new = generate(model, [blanked(prompt, tokenizer) for prompt in prompts], options)
    return [filled(prompt, out, tokenizer) for prompt, out in zip(prompts, new, strict=True)]


def blanked(prompt: str, tokenizer: Tokenizer) -> list[int]:
    """What the encoder reads: each blank a sentinel, an end of text behind."""
    first, *others = prompt.split(BLANK)
    ids = tokenizer.encode(first)
    for index, part in enumerate(others):
        ids += [tokenizer.sentinel(index), *tokenizer.encode(part)]
    return [*ids, tokenizer.eos]


def filled(prompt: str, output: list[int], tokenizer: Tokenizer) -> str:
    """The prompt with what the decoder wrote behind each sentinel in its blank's place."""
    first, *others = prompt.split(BLANK)
    sentinels = [tokenizer.sentinel(index) for index in range(len(others))]
    spans: dict[int, list[int]] = {sentinel: [] for sentinel in sentinels}
    current: list[int] = []
    for token in output:
        is_text = tokenizer.is_text(token)
        current = current if is_text else spans.get(token, [])
        if is_text:
            current.append(token)
    return first + "".join(
        f"[{tokenizer.decode(spans[sentinel])}]{part}"
        for sentinel, part in zip(sentinels, others, strict=True)
    )
