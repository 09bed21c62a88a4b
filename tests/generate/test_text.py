"""Text as it is generated: whole characters, and stops wherever the tokens begin and end."""

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers

from tests.data.test_tokenizer_files import byte_level, trained, word_level
from tests.models.cases import MODERN, SPARSE
from turnout.config.errors import ConfigError, UserError
from turnout.data.tokenizers import ByteTokenizer, Tokenizer
from turnout.data.tokenizers.json_file import JsonTokenizer
from turnout.generate import GenerateOptions, generate, generate_text, stream, stream_text
from turnout.generate.text import StopStrings, Transcript
from turnout.models import Model, build

BYTES = ByteTokenizer()
HOT = GenerateOptions(90, temperature=2.0, top_k=30, seed=1)


@cache
def spaced() -> JsonTokenizer:
    """Words that carry the space before them; the first one of a text loses it."""
    words = ["[UNK]", "\u2581a", "\u2581", "b", "\u2581stop", "st", "op"]
    library = Library(models.WordLevel({w: n for n, w in enumerate(words)}, unk_token="[UNK]"))
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.decoder = decoders.Metaspace()
    return JsonTokenizer(library.to_str().encode(), sentinels=2)


@cache
def pieces_of(number: int) -> list[Tokenizer]:
    return [BYTES, trained(), byte_level(), word_level(), spaced()][number : number + 1]


def ids_of(tokenizer: Tokenizer, wanted: list[int]) -> list[int]:
    return [index % tokenizer.vocab_size for index in wanted]


def told(stops: StopStrings, ids: list[int]) -> list[str]:
    transcript = Transcript(stops)
    return [*map(transcript.add, ids), transcript.rest()]


NUMBERS = st.lists(st.integers(0, 2**16), max_size=120)
TEXTS = st.sampled_from(["", "def x = 1  # naïve €\n", "  a stop ▁ \U0001f600" * 9, "st op stop"])
STOPS = st.lists(st.sampled_from(["\n", "op", " stop", "ï", "€\n", "# n", "a", "1  #"]), max_size=3)


@pytest.mark.parametrize("number", range(5))
@given(text=TEXTS, noise=NUMBERS, stops=STOPS)
def test_the_pieces_are_the_whole(
    number: int, text: str, noise: list[int], stops: list[str]
) -> None:
    (tokenizer,) = pieces_of(number)
    ids = [*tokenizer.encode(text), *ids_of(tokenizer, noise), *tokenizer.encode(text)]
    strings = StopStrings(tokenizer, tuple(stops))
    assert "".join(told(strings, ids)) == strings.cut(tokenizer.decode(ids))


@pytest.mark.parametrize("number", range(5))
@given(text=TEXTS, noise=NUMBERS, stops=STOPS)
def test_a_row_ends_where_its_text_first_holds_a_stop(
    number: int, text: str, noise: list[int], stops: list[str]
) -> None:
    """Against decoding everything again after every token."""
    (tokenizer,) = pieces_of(number)
    ids = [*tokenizer.encode(text), *ids_of(tokenizer, noise[:40])]
    prefixes = [ids[:n] for n in range(1, len(ids) + 1)]
    slow = (n for n, p in enumerate(prefixes) if any(s in tokenizer.decode(p) for s in stops))
    fast = (n for n, p in enumerate(prefixes) if StopStrings(tokenizer, tuple(stops))(p))
    assert next(fast, None) == next(slow, None)


def test_a_character_comes_when_it_is_whole() -> None:
    nothing = StopStrings(BYTES, ())
    assert told(nothing, BYTES.encode("a€b")) == ["a", "", "", "€", "b", ""]
    # The first byte of a character that never comes is told when the row ends.
    assert told(nothing, BYTES.encode(b"a\xe2")) == ["a", "", "\ufffd"]
    assert told(nothing, BYTES.encode(b"\xe2\x82x")) == ["", "", "\ufffdx", ""]


def test_what_may_begin_a_stop_is_held_back() -> None:
    stops = StopStrings(BYTES, ("ab\n", "b!"))
    assert told(stops, BYTES.encode("xab")) == ["x", "", "", "ab"]
    assert told(stops, BYTES.encode("xabc")) == ["x", "", "", "abc", ""]
    assert told(stops, BYTES.encode("xab!y")) == ["x", "", "", "a", "", ""]
    assert told(stops, BYTES.encode("aab\ny")) == ["", "a", "", "", "", ""]


@cache
def speaker(family: str = "modern") -> Model:
    config = {"modern": MODERN, **SPARSE}[family]
    lengths = {"length": 128} if family in ("modern", "olmoe") else {"decoder_length": 128}
    model = build(replace(config, vocab_size=BYTES.vocab_size, **lengths))
    model.init_weights(0)
    return model


PROMPTS = [[70, 80, 90], [101], [71, 100]]


@pytest.mark.parametrize("family", ["modern", "olmoe", "switch"])
def test_text_with_a_stop_is_the_free_text_up_to_it(family: str) -> None:
    model = speaker(family)
    free = generate_text(model, BYTES, PROMPTS, HOT)
    assert free == [BYTES.decode(ids) for ids in generate(model, PROMPTS, HOT)]
    stop = (free[0][30:32], free[1][50:53])
    expected = [StopStrings(BYTES, stop).cut(text) for text in free]
    assert len(expected[0]) <= 30 and len(expected[1]) <= 50
    assert generate_text(model, BYTES, PROMPTS, HOT, stop=stop) == expected
    assert [generate_text(model, BYTES, [p], HOT, stop=stop)[0] for p in PROMPTS] == expected
    streamed = ["", "", ""]
    for piece in stream_text(model, BYTES, PROMPTS, HOT, stop=stop):
        streamed[piece.row] += piece.text
    assert streamed == expected


def test_a_stop_saves_the_work_behind_it() -> None:
    model = speaker()
    passes: list[int] = []
    hook = model.decoder.register_forward_hook(lambda *_: passes.append(1))
    (ids,) = generate(model, PROMPTS[:1], HOT)
    stop = BYTES.decode(ids)[3:5]
    passes.clear()
    generate_text(model, BYTES, PROMPTS[:1], HOT, stop=[stop])
    hook.remove()
    assert len(passes) < 12


def test_a_stream_is_the_whole_step_by_step() -> None:
    model = speaker()
    rows: list[list[int]] = [[], [], []]
    steps = list(stream(model, PROMPTS, HOT))
    for step in steps:
        for row, token in zip(rows, step, strict=True):
            row += [] if token is None else [token]
    assert rows == generate(model, PROMPTS, HOT)
    assert len(steps) == 90


def test_a_stream_refuses_at_once_and_gives_the_model_back() -> None:
    model = speaker().train()
    with pytest.raises(UserError, match="prompt 0 is empty"):
        stream(model, [[]])
    with pytest.raises(ConfigError, match=r"num_beams = 2: must be 1 to stream"):
        stream(model, PROMPTS, GenerateOptions(num_beams=2))
    with pytest.raises(ConfigError, match="stop = '': must be a text of at least one character"):
        stream_text(model, BYTES, PROMPTS, stop=["\n", ""])
    steps = stream(model, PROMPTS, HOT)
    next(steps)
    assert not model.training
    steps.close()
    assert model.training
