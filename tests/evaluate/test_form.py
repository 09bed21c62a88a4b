"""Rows are those of training, and what is too long loses the left of its context alone."""

from dataclasses import replace

import numpy as np
import pytest

from tests.evaluate.subjects import BYTES, config_of
from turnout.cli.samples import prompt_ids
from turnout.config.errors import ConfigError, UserError
from turnout.config.objective import (
    CausalConfig,
    ObjectiveConfig,
    PrefixConfig,
    SpanConfig,
    TextToTextConfig,
)
from turnout.data.examples import Example
from turnout.data.text_to_text import pair_rows
from turnout.evaluate.form import Form, Row, form_of
from turnout.evaluate.likelihood import _batch

PAD, EOS = BYTES.pad, BYTES.eos
FAMILY = {"one": "modern", "two": "t5"}
FORMS: dict[str, tuple[str, ObjectiveConfig]] = {
    "causal": ("one", CausalConfig()),
    "prefix": ("one", PrefixConfig()),
    "prefix of two stacks": ("two", PrefixConfig()),
    "examples": ("one", TextToTextConfig()),
    "visible examples": ("one", TextToTextConfig(visible_inputs=True)),
    "examples of two stacks": ("two", TextToTextConfig()),
    "spans": ("two", SpanConfig()),
}


def form(name: str, length: int = 64) -> Form:
    family, objective = FORMS[name]
    return form_of(objective, config_of(FAMILY[family], length), BYTES)


def ids(text: str) -> tuple[int, ...]:
    return tuple(BYTES.encode(text))


def test_every_form_by_hand() -> None:
    blank = BYTES.sentinel(0)
    expected = {
        "causal": Row((PAD, *ids("ab")), ids(" c")),
        "prefix": Row((PAD, *ids("ab")), ids(" c")),
        "prefix of two stacks": Row((PAD,), ids(" c"), (*ids("ab"), EOS)),
        "examples": Row((PAD, *ids("ab"), EOS), (*ids("c"), EOS)),
        "visible examples": Row((PAD, *ids("ab"), EOS), (*ids("c"), EOS)),
        "examples of two stacks": Row((PAD,), (*ids("c"), EOS), (*ids("ab"), EOS)),
        "spans": Row((PAD, blank), ids("c"), (*ids("ab"), blank, EOS)),
    }
    assert {name: form(name).row("ab", " c") for name in FORMS} == expected


@pytest.mark.parametrize("name", FORMS)
def test_prompts_are_those_of_generate(name: str) -> None:
    family, objective = FORMS[name]
    read = form(name).prompt("what is it", 8)
    blank = "___" if name == "spans" else ""
    expected = prompt_ids(objective, config_of(FAMILY[family]), BYTES, "what is it" + blank)
    assert list(read.encoder or read.prompt) == expected
    assert form(name).visible == (objective.visible_prompt and family == "one")


@pytest.mark.parametrize("name", [name for name in FORMS if "examples" in name])
def test_an_example_is_read_as_in_training(name: str) -> None:
    """The batch that scores the targets is the row that training makes, entry by entry."""
    family, objective = FORMS[name]
    assert isinstance(objective, TextToTextConfig)
    config = config_of(FAMILY[family])
    example = Example(b"how many?", b"four", "here")
    alone = replace(objective, max_examples=1)
    encoder = config.encoder_length if config.kind == "encoder_decoder" else 0
    trained = pair_rows([example], BYTES, alone, encoder, 64).read(np.arange(1), np.arange(1))

    row = form(name).row("how many?", " four")
    batch = _batch([row], form(name).visible, None, trained.targets.device)
    width = batch.decoder.ids.shape[1]
    assert batch.decoder.ids.tolist() == trained.decoder.ids[:, :width].tolist()
    assert batch.decoder.segment.tolist() == trained.decoder.segment[:, :width].tolist()
    scored = trained.targets[trained.target_mask].tolist()
    assert scored == list(row.answer)
    place = trained.target_mask[0].nonzero().flatten().tolist()
    assert place == [len(row.prompt) - 1 + i for i in range(len(row.answer))]
    shown, given = trained.decoder.visible, batch.decoder.visible
    assert (shown is None) == (given is None)
    if shown is not None and given is not None:
        assert given.tolist() == shown[:, :width].tolist()
    if batch.encoder is not None and trained.encoder is not None:
        width = batch.encoder.ids.shape[1]
        assert batch.encoder.ids.tolist() == trained.encoder.ids[:, :width].tolist()


@pytest.mark.parametrize("name", FORMS)
def test_the_left_of_the_context_goes_and_never_the_answer(name: str) -> None:
    made = form(name, 16)
    row = made.row("0123456789abcdefghij", " xyz")
    assert row.cut
    whole = form(name, 64).row("0123456789abcdefghij", " xyz")
    assert row.answer == whole.answer
    read, all_read = (each.encoder or each.prompt for each in (row, whole))
    head, tail = len(made.head), len(made.tail)
    assert read[:head] == all_read[:head]
    body = read[head : len(read) - tail]
    assert body and all_read[head : len(all_read) - tail][-len(body) :] == body
    assert read[len(read) - tail :] == all_read[len(all_read) - tail :]
    # Not a place is left over.
    places = len(row.encoder) if row.encoder else len(row.prompt) + len(row.answer) - 1
    assert places == 16


@pytest.mark.parametrize("name", FORMS)
def test_the_longest_answer_that_fits(name: str) -> None:
    made = form(name, 16)
    most = 16 - (len(made.begin) or len(made.head) + len(made.tail)) + 1 - len(made.end)
    row = made.row("context", " " + "x" * (most - made.joined))
    assert len(row.answer) == most + len(made.end)
    assert len(row.prompt) + len(row.answer) - 1 == 16
    with pytest.raises(UserError, match=rf"the answer has {len(row.answer) + 1} tokens, more than"):
        made.row("context", " " + "x" * (most + 1 - made.joined))


def test_a_context_that_fits_exactly_is_whole() -> None:
    # start, 12 of context, 3 of the answer but its last: 16 places.
    assert not form("causal", 16).row("0123456789ab", " xyz").cut
    assert form("causal", 16).row("0123456789abc", " xyz").cut


def test_no_room_to_write() -> None:
    with pytest.raises(ConfigError, match="max_tokens = 16: must be at most 15"):
        form("causal", 16).prompt("abc", 16)
    kept = form("causal", 16).prompt("abc", 15)
    assert kept == Row((PAD,), (), (), cut=True)
    with pytest.raises(ConfigError, match="max_tokens = 17: must be at most 16"):
        form("spans", 16).prompt("abc", 17)


def test_blanks_between_belong_to_the_answer() -> None:
    row = form("causal").row("ab  ", "c")
    assert (row.prompt, row.answer) == ((PAD, *ids("ab")), ids("  c"))
    assert form("causal").row("", " c") == Row((PAD,), ids(" c"))
    with pytest.raises(UserError, match="has no tokens: nothing to score"):
        form("causal").row("ab", "")


class Pieces:
    """A tokenizer in which ``ab`` is one piece, and every other letter by itself."""

    pad, eos = 0, 1

    def encode(self, text: str) -> list[int]:
        made = text.replace("ab", "\x7f")
        return [ord(letter) for letter in made]


def test_a_token_across_the_border_is_cut() -> None:
    """Together ``xa`` and ``by`` are x, ab, y: no place parts them, so each is read alone."""
    made = replace(form("causal"), tokenizer=Pieces())
    assert made.row("xa", "by") == Row((PAD, ord("x"), ord("a")), (ord("b"), ord("y")))
    assert made.row("x", "aby") == Row((PAD, ord("x")), (0x7F, ord("y")))


def test_windows_take_every_token_once() -> None:
    """The example of the harness: ten tokens, four places."""
    made = form("causal", 4)
    text = "0123456789"
    t = ids(text)
    assert made.windows("", text) == [
        Row((PAD,), t[:4]),
        Row(t[3:4], t[4:8]),
        Row(t[5:8], t[8:]),
    ]
    assert made.windows("", "012") == [Row((PAD,), t[:3])]
    with pytest.raises(UserError, match="has no tokens: nothing to score"):
        made.windows("", "")


def test_of_text_every_byte_is_scored_and_no_blank_before_it() -> None:
    made = form("causal", 16)
    (row,) = made.windows("ab  ", " cd")
    assert (row.prompt, row.answer) == ((PAD, *ids("ab  ")), ids(" cd"))
    (row,) = form("examples", 16).windows("ab ", " cd")
    assert row.answer[:3] == ids(" cd")


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("size", [1, 5, 15, 16, 17, 40])
def test_windows_fit_and_hold_the_whole_answer(name: str, size: int) -> None:
    made = form(name, 16)
    text = "".join(chr(97 + i % 26) for i in range(size))
    rows = made.windows("some context that is long", text)
    assert [t for row in rows for t in row.answer] == [*ids(text), *made.end]
    assert all(row.prompt and len(row.prompt) + len(row.answer) - 1 <= 16 for row in rows)
    assert all(len(row.encoder) <= 16 for row in rows)


def test_spans_need_an_encoder() -> None:
    with pytest.raises(ConfigError, match="form = 'span': must be causal, prefix or text_to_text"):
        form_of(SpanConfig(), config_of("modern"), BYTES)
