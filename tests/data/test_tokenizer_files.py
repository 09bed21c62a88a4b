"""Vocabularies from files and learnt from text."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers, trainers

from turnout.config.errors import ConfigError, UserError
from turnout.config.tokenizers import (
    BytesConfig,
    SentencePieceConfig,
    TokenizerJsonConfig,
    TrainedConfig,
)
from turnout.data.tokenizers import ByteTokenizer, Tokenizer
from turnout.data.tokenizers.cut import parts
from turnout.data.tokenizers.json_file import JsonTokenizer
from turnout.data.tokenizers.load import from_content, load, require_same, restore, save
from turnout.data.tokenizers.sentence_piece import SentencePieceTokenizer
from turnout.data.tokenizers.trained import learn, sampled

TEXT = b"def first(x):\n    return x + 1\n\n\nclass Second:\n    pass  # na\xc3\xafve\n" * 40


@cache
def trained(sentinels: int = 100) -> SentencePieceTokenizer:
    return learn([TEXT], TrainedConfig(300 + sentinels, sentinels=sentinels))


@cache
def byte_level() -> JsonTokenizer:
    """A GPT-2 kind of vocabulary: byte-level BPE with an end of text and no padding."""
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    library.train_from_iterator([TEXT.decode()], trainer)
    return JsonTokenizer(library.to_str().encode(), sentinels=10)


def word_level() -> JsonTokenizer:
    """Words alone: what is between them is lost."""
    library = Library(models.WordLevel({"[UNK]": 0, "def": 1, "x": 2}, unk_token="[UNK]"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    return JsonTokenizer(library.to_str().encode(), sentinels=2)


def lossless() -> list[Tokenizer]:
    return [ByteTokenizer(), trained(), byte_level()]


texts = st.text() | st.text("\u2581 \n\tdefx\0é", max_size=60)


@pytest.mark.parametrize("number", range(3))
@given(text=texts)
def test_text_survives(number: int, text: str) -> None:
    tokenizer = lossless()[number]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    raw = text.encode()
    assert b"".join(map(tokenizer.token_bytes, ids)) == raw
    assert int(tokenizer.byte_lengths[ids].sum()) == len(raw)
    assert all(0 <= index < tokenizer.vocab_size for index in ids)


@pytest.mark.parametrize("number", range(3))
def test_specials_stand_for_nothing_and_sentinels_are_last(number: int) -> None:
    tokenizer = lossless()[number]
    specials = [tokenizer.pad, tokenizer.eos, tokenizer.unk]
    assert len(set(specials)) == 3
    last = [tokenizer.sentinel(index) for index in range(tokenizer.num_sentinels)]
    size = tokenizer.vocab_size
    assert last == list(range(size - 1, size - 1 - tokenizer.num_sentinels, -1))
    assert not set(last) & set(specials)
    assert not tokenizer.byte_lengths[specials + last].any()
    assert len(tokenizer.byte_lengths) == size
    ids = [tokenizer.pad, *tokenizer.encode("x"), last[0], last[1], tokenizer.eos]
    assert tokenizer.decode(ids) == "x<extra_id_0><extra_id_1>"
    assert tokenizer.decode([tokenizer.unk]) == "\ufffd"
    with pytest.raises(UserError, match=f"has ids 0 to {size - 1}"):
        tokenizer.decode([size])


@pytest.mark.parametrize("number", range(3))
def test_documents_are_encoded_alike_alone_and_together(number: int) -> None:
    tokenizer = lossless()[number]
    documents = [b"", b"x", "a\u2581b ".encode(), TEXT * 20]
    together = tokenizer.encode_documents(documents, threads=2)
    assert [ids.tolist() for ids in together] == [tokenizer.encode(each) for each in documents]


def test_ids_of_the_trained_vocabulary() -> None:
    # 400 ids: padding, end, unknown, 256 bytes (3 to 258), pieces, and 100 sentinels from 300 on.
    tokenizer = trained()
    assert (tokenizer.pad, tokenizer.eos, tokenizer.unk, tokenizer.vocab_size) == (0, 1, 2, 400)
    assert tokenizer.sentinel(0) == 399 and tokenizer.sentinel(99) == 300
    # The sign for a space, in UTF-8 the bytes e2 96 81, is written as these three bytes.
    assert tokenizer.encode("\u2581") == [3 + 0xE2, 3 + 0x96, 3 + 0x81]
    assert len(tokenizer.encode(TEXT)) < 0.7 * len(TEXT)
    assert learn([TEXT], TrainedConfig(400)).fingerprint == tokenizer.fingerprint


def test_a_foreign_vocabulary_gets_what_it_lacks_above_it() -> None:
    tokenizer = byte_level()
    # 280 ids of its own, <|endoftext|> the first; padding 280, unknown 281, ten sentinels.
    assert (tokenizer.eos, tokenizer.pad, tokenizer.unk) == (0, 280, 281)
    assert tokenizer.vocab_size == 292 and tokenizer.sentinel(0) == 291
    assert tokenizer.token_bytes(tokenizer.encode(" ")[0]) == b" "


def test_a_special_token_in_a_text_is_only_text() -> None:
    tokenizer = byte_level()
    ids = tokenizer.encode("a<|endoftext|>b")
    assert tokenizer.eos not in ids
    assert tokenizer.decode(ids) == "a<|endoftext|>b"


def test_own_sentinels_are_used_where_they_are_the_last_ids() -> None:
    def words(*tokens: str) -> JsonTokenizer:
        library = Library(models.WordLevel({token: i for i, token in enumerate(tokens)}))
        return JsonTokenizer(library.to_str().encode(), sentinels=10)

    sentinels = ("<extra_id_1>", "<extra_id_0>")
    own = words("<pad>", "</s>", "<unk>", "a", *sentinels)
    assert own.num_sentinels == 2 and own.vocab_size == 6
    assert [own.sentinel(0), own.sentinel(1)] == [5, 4]
    # Six ids, the unknown one above them as 6: now the last ids are 7 to 16, ten added sentinels.
    above = words("<pad>", "</s>", "b", "a", *sentinels)
    assert above.num_sentinels == 10 and above.vocab_size == 17
    # Counting upwards they are no sentinels: 6 ids and 10 above.
    assert words("<pad>", "</s>", "<unk>", "a", *sentinels[::-1]).vocab_size == 16


def test_words_alone_lose_text() -> None:
    tokenizer = word_level()
    ids = tokenizer.encode("def  x y")
    assert ids == [1, 2, 0] and tokenizer.unk == 0
    assert int(tokenizer.byte_lengths[ids].sum()) == len("defx")


def test_a_named_token_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"eos = '<\|end\|>': no such token; did you mean"):
        _ = JsonTokenizer(byte_level().file, 0, eos_name="<|end|>").eos


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SentencePieceConfig("no.model"), r"cannot read 'no.model': No such file"),
        (TokenizerJsonConfig("no.json"), r"cannot read 'no.json': No such file"),
    ],
)
def test_a_missing_file(config: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(config, learn)


def test_a_file_of_another_kind() -> None:
    with pytest.raises(UserError, match=r"'x.model': not a SentencePiece model"):
        from_content(SentencePieceConfig("x.model"), b"{}")
    for content in (b"\xff\0", b"{}", b""):
        with pytest.raises(UserError, match=r"'x.json': not a tokenizer.json") as error:
            from_content(TokenizerJsonConfig("x.json"), content)
        assert "\n" not in str(error.value)


def test_too_little_text_for_the_vocabulary() -> None:
    with pytest.raises(
        ConfigError, match=r"vocab_size = 4000: must be at most \d+ .*; lower it"
    ) as error:
        learn([b"abc"], TrainedConfig(4000))
    assert "\n" not in str(error.value)
    many = "".join(map(chr, range(0x4E00, 0x4E80))).encode()
    with pytest.raises(ConfigError, match=r"vocab_size = 400: must be at least \d+ .*; raise it"):
        learn([many * 40], TrainedConfig(400))
    with pytest.raises(ConfigError, match="vocab_size = 300: must be at least 360"):
        TrainedConfig(300)


def test_a_sample_is_spread_over_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turnout.data.tokenizers.trained._MOST_BYTES", 30)
    documents = [(10 * (number + 1), b"%010d" % number) for number in range(10)]
    taken = [int(text) for text in sampled(documents, 100)]
    assert taken == [0, 3, 6, 9]


@given(st.text("a \né\U0001f600", max_size=200), st.integers(8, 40))
def test_parts_are_whole_characters_and_the_whole_text(text: str, size: int) -> None:
    found = list(parts(text.encode(), size))
    assert b"".join(found) == text.encode()
    assert all(len(part) <= size for part in found)
    assert "".join(part.decode() for part in found) == text


def test_a_line_of_ten_megabytes() -> None:
    line = b"word " * 2_000_000
    for tokenizer in (trained(), ByteTokenizer()):
        (ids,) = tokenizer.encode_documents([line])
        assert int(tokenizer.byte_lengths[ids].sum()) == len(line)


def test_a_run_keeps_its_tokenizer(tmp_path: object) -> None:
    run = tmp_path / "run"
    for tokenizer, config in (
        (trained(), TrainedConfig(400)),
        (byte_level(), TokenizerJsonConfig("gone.json", sentinels=10)),
    ):
        save(tokenizer, run)
        assert restore(config, run, tokenizer.fingerprint) == tokenizer
    save(ByteTokenizer(), tmp_path / "bytes")
    assert not (tmp_path / "bytes").exists()
    assert restore(BytesConfig(), run, None) == ByteTokenizer()


def test_a_copy_that_is_gone_or_another(tmp_path: object) -> None:
    known = trained().fingerprint
    with pytest.raises(UserError, match=r"own copy .* is missing; restore it"):
        restore(TrainedConfig(400), tmp_path, known)
    file = tmp_path / "other.model"
    file.write_bytes(trained(20).model)
    with pytest.raises(UserError, match="is not what the checkpoint was trained with"):
        restore(SentencePieceConfig(str(file), sentinels=20), tmp_path, known)
    with pytest.raises(UserError, match="does not match step-3, trained with 'bytes'"):
        require_same(SentencePieceConfig(str(file)), ByteTokenizer(), "step-3")
    with pytest.raises(UserError, match=r"'trained' .*does not match step-3, which keeps its own"):
        require_same(TrainedConfig(400), ByteTokenizer(), "step-3")


def test_ids_fit_into_what_numpy_indexes() -> None:
    for tokenizer in lossless():
        (ids,) = tokenizer.encode_documents([b"x"])
        assert np.issubdtype(ids.dtype, np.integer)
