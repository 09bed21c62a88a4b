import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.config.errors import UserError
from turnout.data.tokenizers import ByteTokenizer

tokenizer = ByteTokenizer()


def test_layout_of_the_vocabulary() -> None:
    # 3 special ids + 256 bytes = ids 0 to 258, then 384 - 259 = 125 sentinels.
    assert (tokenizer.pad, tokenizer.eos, tokenizer.unk) == (0, 1, 2)
    assert tokenizer.encode(b"\x00A\xff") == [3, 65 + 3, 258]
    assert [tokenizer.sentinel(i) for i in (0, 1, 124)] == [383, 382, 259]
    assert tokenizer.num_sentinels == 125


@given(st.text())
def test_text_survives(text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode_array(text.encode()).tolist() == tokenizer.encode(text)


def test_decode_shows_sentinels_and_hides_ends() -> None:
    ids = [0, *tokenizer.encode("né"), 383, *tokenizer.encode("x"), 382, 2, 1, 0]
    assert tokenizer.decode(ids) == "né<extra_id_0>x<extra_id_1>\ufffd"


def test_decode_replaces_what_is_not_utf8() -> None:
    # 0xC3 begins a character of two bytes; a sentinel stands where the second should.
    assert tokenizer.decode([0xC3 + 3, 383, 0xA9 + 3]) == "\ufffd<extra_id_0>\ufffd"


@pytest.mark.parametrize("index", [-1, 384])
def test_ids_outside_the_vocabulary_are_refused(index: int) -> None:
    with pytest.raises(UserError, match=f"id {index}: the bytes vocabulary has ids 0 to 383"):
        tokenizer.decode([index])


@pytest.mark.parametrize("index", [-1, 125])
def test_sentinels_run_out(index: int) -> None:
    with pytest.raises(UserError, match="125 sentinels, 0 to 124"):
        tokenizer.sentinel(index)
