"""What a model reads of a question and where its answer stands: as in its training.

| trained on | reads | answers |
|---|---|---|
| text, causal or prefix | start, context | the text behind it |
| examples (text to text) | the inputs and an end | the targets and an end |
| spans | the context, sentinel 0 and an end | what stands behind sentinel 0 |

With an encoder it reads what stands under *reads* (without the start) and the decoder begins with a
start; else both are one row. A row that is too long loses the left of its context, never the
answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import singledispatch

from turnout.config.errors import ConfigError, UserError
from turnout.config.model import DecoderOnlyConfig, EncoderDecoderConfig, ModelConfig
from turnout.config.objective import (
    CausalConfig,
    ObjectiveConfig,
    PrefixConfig,
    SpanConfig,
    TextToTextConfig,
)
from turnout.data.tokenizers import Tokenizer

DELIMITER = " "  # between inputs and answer, in text that goes on ..
BETWEEN_SHOTS = "\n\n"  # .. and behind the answer of a shot


@dataclass(frozen=True)
class Row:
    """Tokens of one row.

    Attributes:
        prompt: what the decoder reads before the first token of the answer; at least one.
        answer: what is scored.
        encoder: what the encoder reads; empty where there is none.
        cut: whether the context lost its left.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    encoder: tuple[int, ...] = ()
    cut: bool = False


@dataclass(frozen=True)
class Form:
    """How a context and a continuation become a row.

    Attributes:
        head, tail: what stands before and behind the context.
        begin: what a decoder behind an encoder reads first; empty without an encoder.
        end: what follows an answer, and is scored with it.
        joined: the answer goes on with the text of the context, and is tokenised with it.
        visible: tokens of the prompt read each other in both directions.
        stops: tokens that end an answer that is generated.
        encoder_length, decoder_length: positions there are; no encoder where the first is 0.
    """

    tokenizer: Tokenizer
    head: tuple[int, ...]
    tail: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    joined: bool
    visible: bool
    stops: tuple[int, ...]
    encoder_length: int
    decoder_length: int

    def row(self, context: str, continuation: str) -> Row:
        """The row that scores ``continuation`` behind ``context``.

        Where answers do not go on with the text, one ``DELIMITER`` at the beginning of the
        continuation is left out.

        Raises:
            UserError: the answer alone does not fit.
        """
        body, answer = self._tokens(context, continuation)
        answer = [*answer, *self.end]
        if not answer:
            raise UserError(f"{continuation!r:.60} has no tokens: nothing to score")
        most = self.decoder_length - (len(self.begin) or len(self.head) + len(self.tail)) + 1
        if len(answer) > most:
            raise UserError(
                f"the answer has {len(answer)} tokens, more than the {most} that the model's rows "
                "have for it"
            )
        taken = 0 if self.encoder_length else len(answer) - 1
        return replace(self._context(body, taken), answer=tuple(answer))

    def prompt(self, context: str, new: int) -> Row:
        """What is read before ``new`` tokens are generated.

        Raises:
            ConfigError: no room for so many.
        """
        most = self.decoder_length
        if not self.encoder_length:
            most -= len(self.head) + len(self.tail)
        if new > most:
            raise ConfigError("max_tokens", new, f"at most {most}, what the model's rows have")
        return self._context(self.tokenizer.encode(context), new)

    def windows(self, context: str, text: str) -> list[Row]:
        """Rows that score every token of ``text`` once: each as many as fit, behind one token, and
        the last behind as many as fit. The context keeps half of a row at most.

        Raises:
            UserError: there is no text.
        """
        body, answer = self._text(context, text)
        if not answer:
            raise UserError(f"the text {text!r:.60} has no tokens: nothing to score")
        length = self.decoder_length
        first = self._context(body, min(len(answer) + len(self.end), length // 2))
        stream = (*first.prompt, *answer, *self.end)
        rows: list[Row] = []
        done = len(first.prompt)
        while done < len(stream):
            end = min(done + length if rows else length + 1, len(stream))
            begin = max(end - 1 - length, 0)
            rows.append(replace(first, prompt=stream[begin:done], answer=stream[done:end]))
            done = end
        return rows

    def _tokens(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Tokens of both. Where they are one text, blanks between them belong to the answer, as
        word pieces have them, and both are tokenised together unless a token lies across."""
        encode = self.tokenizer.encode
        if not self.joined:
            return encode(context), encode(continuation.removeprefix(DELIMITER))
        stripped = context.rstrip()
        continuation = context[len(stripped) :] + continuation
        body, both = encode(stripped), encode(stripped + continuation)
        if both[: len(body)] == body:
            return body, both[len(body) :]
        return body, encode(continuation)

    def _text(self, context: str, text: str) -> tuple[list[int], list[int]]:
        """As ``_tokens``, but that blanks at the end of the context stay there: of ``text`` every
        byte is scored, and nothing else."""
        encode = self.tokenizer.encode
        body, both = encode(context), encode(context + text)
        if self.joined and both[: len(body)] == body:
            return body, both[len(body) :]
        return body, encode(text)

    def _context(self, body: Sequence[int], taken: int) -> Row:
        """The context with ``taken`` places of a single stack left for what follows."""
        around = len(self.head) + len(self.tail)
        room = max((self.encoder_length or self.decoder_length - taken) - around, 0)
        cut = len(body) > room
        kept = (*self.head, *(body[len(body) - room :] if cut else body), *self.tail)
        if self.encoder_length:
            return Row(self.begin, (), kept, cut)
        return Row(kept, (), (), cut)


def form_of(
    objective: ObjectiveConfig, model: ModelConfig, tokenizer: Tokenizer, start: int | None = None
) -> Form:
    """The form of a model that was trained on ``objective``.

    Args:
        start: what a text begins with, where that is not the tokenizer's padding.

    Raises:
        ConfigError: spans without an encoder.
    """
    encoder, decoder = _lengths(model)
    first = tokenizer.pad if start is None else start
    plain = Form(
        tokenizer=tokenizer,
        head=() if encoder else (first,),
        tail=(),
        begin=(tokenizer.pad,) if encoder else (),
        end=(),
        joined=True,
        visible=objective.visible_prompt and not encoder,
        stops=(tokenizer.eos,),
        encoder_length=encoder,
        decoder_length=decoder,
    )
    return _of(objective, plain)


@singledispatch
def _of(objective: object, plain: Form) -> Form:
    raise TypeError(f"no form for {type(objective).__name__}")


@_of.register
def _(objective: CausalConfig | PrefixConfig, plain: Form) -> Form:
    return replace(plain, tail=(plain.tokenizer.eos,)) if plain.encoder_length else plain


@_of.register
def _(objective: TextToTextConfig, plain: Form) -> Form:
    eos = plain.tokenizer.eos
    return replace(plain, tail=(eos,), end=(eos,), joined=False)


@_of.register
def _(objective: SpanConfig, plain: Form) -> Form:
    tokenizer = plain.tokenizer
    if not plain.encoder_length:
        raise ConfigError("form", "span", "causal, prefix or text_to_text without an encoder")
    blank = tokenizer.sentinel(0)
    return replace(
        plain,
        tail=(blank, tokenizer.eos),
        begin=(*plain.begin, blank),
        joined=False,
        stops=(tokenizer.eos, tokenizer.sentinel(1)),
    )


@singledispatch
def _lengths(model: object) -> tuple[int, int]:
    """Positions of the encoder's rows, 0 without one, and of the decoder's."""
    raise TypeError(f"no rows for {type(model).__name__}")


@_lengths.register
def _(model: DecoderOnlyConfig) -> tuple[int, int]:
    return 0, model.length


@_lengths.register
def _(model: EncoderDecoderConfig) -> tuple[int, int]:
    return model.encoder_length, model.decoder_length
