"""Prompts as text, completed, answered or filled; ``___`` marks a blank for span models."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import singledispatch

from turnout.config.errors import ConfigError, UserError
from turnout.config.generation import GenerateOptions
from turnout.config.model import EncoderDecoderConfig, ModelConfig
from turnout.config.objective import (
    CausalConfig,
    ObjectiveConfig,
    PrefixConfig,
    SpanConfig,
    TextToTextConfig,
)
from turnout.data.tokenizers import Tokenizer
from turnout.generate import generate, stream_text
from turnout.generate.text import StopStrings
from turnout.models.base import Model

BLANK = "___"


def answer(
    model: Model,
    tokenizer: Tokenizer,
    objective: ObjectiveConfig,
    prompts: list[str],
    options: GenerateOptions,
    stop: Sequence[str] = (),
) -> list[str]:
    """Each prompt with what the model makes of it, the answer alone for text to text; an end of
    text ends it, or the first of ``stop``, which is cut off.

    Raises:
        UserError: a prompt the model cannot take, or a stop where blanks are filled.
    """
    stops = _stops(objective, tokenizer, stop)
    ids = [prompt_ids(objective, model.config, tokenizer, prompt) for prompt in prompts]
    asked = _options(tokenizer, objective, options)
    new = generate(model, ids, asked, ends=stops if stop else None)
    return [_told(objective, stops, *each) for each in zip(prompts, new, strict=True)]


def told(
    model: Model,
    tokenizer: Tokenizer,
    objective: ObjectiveConfig,
    prompt: str,
    options: GenerateOptions,
    stop: Sequence[str] = (),
) -> Iterator[str]:
    """What ``answer`` says to one prompt, in pieces as they come; in one where nothing is sure
    before the end: filled blanks, beams.

    Raises:
        UserError: as ``answer``.
    """
    if options.num_beams > 1 or not _in_order(objective):
        yield from answer(model, tokenizer, objective, [prompt], options, stop)
        return
    ids = [prompt_ids(objective, model.config, tokenizer, prompt)]
    asked = _options(tokenizer, objective, options)
    pieces = stream_text(model, tokenizer, ids, asked, stop=stop)
    yield _told(objective, StopStrings(tokenizer, ()), prompt, [])
    for piece in pieces:
        yield piece.text


def _options(
    tokenizer: Tokenizer, objective: ObjectiveConfig, options: GenerateOptions
) -> GenerateOptions:
    return replace(
        options,
        stop_ids=(tokenizer.eos,),
        start_id=tokenizer.pad,
        visible_prompt=objective.visible_prompt,
    )


def _stops(objective: ObjectiveConfig, tokenizer: Tokenizer, stop: Sequence[str]) -> StopStrings:
    if stop and not _in_order(objective):
        raise ConfigError("stop", stop[0], "left out where blanks are filled, which end themselves")
    return StopStrings(tokenizer, tuple(stop))


def prompt_ids(
    objective: ObjectiveConfig, model: ModelConfig, tokenizer: Tokenizer, prompt: str
) -> list[int]:
    """What the model reads: as in training, a document begins behind the start id in a decoder,
    and what an encoder reads has an end.

    Raises:
        UserError: a prompt without a blank, where blanks are filled.
    """
    return _asked(objective, tokenizer, prompt, model.kind == EncoderDecoderConfig.kind)


@singledispatch
def _asked(objective: object, tokenizer: Tokenizer, prompt: str, encoder: bool) -> list[int]:
    raise TypeError(f"no prompts for {type(objective).__name__}")


@_asked.register
def _(objective: CausalConfig, tokenizer: Tokenizer, prompt: str, encoder: bool) -> list[int]:
    return [tokenizer.pad, *tokenizer.encode(prompt)]


@_asked.register
def _(objective: SpanConfig, tokenizer: Tokenizer, prompt: str, encoder: bool) -> list[int]:
    if BLANK not in prompt:
        raise UserError(f"prompt {prompt!r}: this model fills blanks; mark them with {BLANK}")
    return blanked(prompt, tokenizer)


@_asked.register
def _(objective: PrefixConfig, tokenizer: Tokenizer, prompt: str, encoder: bool) -> list[int]:
    ids = tokenizer.encode(prompt)
    return [*ids, tokenizer.eos] if encoder else [tokenizer.pad, *ids]


@_asked.register
def _(objective: TextToTextConfig, tokenizer: Tokenizer, prompt: str, encoder: bool) -> list[int]:
    start = [] if encoder else [tokenizer.pad]
    return [*start, *tokenizer.encode(prompt), tokenizer.eos]


@singledispatch
def _told(objective: object, stops: StopStrings, prompt: str, output: list[int]) -> str:
    """The prompt and what follows it."""
    return prompt + stops.cut(stops.tokenizer.decode(output))


@_told.register
def _(objective: SpanConfig, stops: StopStrings, prompt: str, output: list[int]) -> str:
    """The prompt with every blank filled, the fillings in [brackets]."""
    return filled(prompt, output, stops.tokenizer)


@_told.register
def _(objective: TextToTextConfig, stops: StopStrings, prompt: str, output: list[int]) -> str:
    return stops.cut(stops.tokenizer.decode(output))


@singledispatch
def _in_order(objective: object) -> bool:
    """Whether what is written is read in the order in which it is written."""
    return True


@_in_order.register
def _(objective: SpanConfig) -> bool:
    return False


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
