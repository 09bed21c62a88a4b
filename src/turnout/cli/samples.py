"""Prompts as text, completed or filled; ``___`` marks a blank for models that fill spans."""

from functools import singledispatch

from turnout.config.errors import UserError
from turnout.config.generation import GenerateOptions
from turnout.config.model import DecoderOnlyConfig, EncoderDecoderConfig
from turnout.data.tokenizers import ByteTokenizer
from turnout.generate import generate
from turnout.models.base import Model

BLANK = "___"


def answer(model: Model, prompts: list[str], options: GenerateOptions) -> list[str]:
    """Each prompt with what the model makes of it.

    Raises:
        UserError: a prompt the model cannot take.
    """
    return _answer(model.config, model, prompts, options)


@singledispatch
def _answer(
    config: object, model: Model, prompts: list[str], options: GenerateOptions
) -> list[str]:
    raise UserError(f"model = {config!r}: no such model family")


@_answer.register
def _continue(
    config: DecoderOnlyConfig, model: Model, prompts: list[str], options: GenerateOptions
) -> list[str]:
    """The prompt and its continuation; in training a document begins behind the start id."""
    tokenizer = ByteTokenizer()
    ids = [[tokenizer.pad, *tokenizer.encode(prompt)] for prompt in prompts]
    new = generate(model, ids, options)
    return [prompt + tokenizer.decode(out) for prompt, out in zip(prompts, new, strict=True)]


@_answer.register
def _fill(
    config: EncoderDecoderConfig, model: Model, prompts: list[str], options: GenerateOptions
) -> list[str]:
    """The prompt with every blank filled, the fillings in [brackets]."""
    for prompt in prompts:
        if BLANK not in prompt:
            raise UserError(f"prompt {prompt!r}: this model fills blanks; mark them with {BLANK}")
    new = generate(model, [blanked(prompt) for prompt in prompts], options)
    return [filled(prompt, out) for prompt, out in zip(prompts, new, strict=True)]


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
