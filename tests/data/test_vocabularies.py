"""Batches, units and baselines with vocabularies other than bytes."""

from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as Library
from tokenizers import models, pre_tokenizers

from turnout.config.attention import AttentionConfig
from turnout.config.errors import ConfigError, UserError
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.model import DecoderOnlyConfig, EncoderDecoderConfig
from turnout.config.tokenizers import TokenizerJsonConfig, TrainedConfig
from turnout.config.train import CausalConfig, DataConfig, RunConfig, SpanConfig, TrainConfig
from turnout.data import baselines
from turnout.data.pipeline import Data, build
from turnout.data.shards.text import Text
from turnout.data.side import Side, SideText

ATTENTION, FEED_FORWARD = AttentionConfig(num_heads=2, head_dim=4), FeedForwardConfig(d_ff=16)
DECODER = DecoderOnlyConfig(400, 8, 1, ATTENTION, FEED_FORWARD, length=32)
BOTH = EncoderDecoderConfig(
    400, 8, 1, 1, ATTENTION, FEED_FORWARD, encoder_length=64, decoder_length=14
)
OBJECTIVES = ((DECODER, CausalConfig()), (BOTH, SpanConfig()))


def text_of(*documents: bytes) -> SideText:
    """Documents held in memory."""
    bounds = np.cumsum([0, *map(len, documents)])
    content = np.frombuffer(b"".join(documents), np.uint8)
    digests = np.zeros((len(documents), 32), np.uint8)
    text = Text(Path(), "", content, bounds, digests, 0, 0, {}, 0)
    return SideText(text, bounds, np.arange(len(documents)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "text").mkdir()
    for i in range(20):
        lines = (f"document {i}, line {j}: {'naïve ' * (i % 5)}end\n" for j in range(5 + i))
        (tmp_path / "text" / f"{i:02}.txt").write_text("".join(lines))
    return tmp_path / "text"


def a_run(folder: Path, model: object, objective: object, tokenizer: object) -> RunConfig:
    return RunConfig(
        model=model,
        objective=objective,
        data=DataConfig(paths=(str(folder),), validation_share=0.2, tokenizer=tokenizer),
        train=TrainConfig(steps=10, batch_rows=8, eval_rows=10, seed=3),
    )


@pytest.mark.parametrize(("model", "objective"), OBJECTIVES)
def test_a_learnt_vocabulary_from_text_to_batches(
    folder: Path, model: object, objective: object
) -> None:
    data = build(a_run(folder, model, objective, TrainedConfig(400)))
    tokenizer = data.tokenizer
    for batch in data.micro_batches(3):
        assert batch.text_bytes is not None
        for row in range(len(batch.row)):
            targets = batch.targets[row][batch.target_mask[row]].tolist()
            written = b"".join(map(tokenizer.token_bytes, targets))
            assert int(batch.text_bytes[row]) == len(written)
            if objective == CausalConfig():
                assert written in b"".join(data.train_documents)
    assert data.summary.tokens < data.summary.bytes
    assert f"{data.summary.tokens:,} tokens (sentencepiece)" in data.summary.text()


@pytest.mark.parametrize(("model", "objective"), OBJECTIVES)
def test_baselines_are_on_the_very_bytes_of_validation(
    folder: Path, model: object, objective: object
) -> None:
    data = build(a_run(folder, model, objective, TrainedConfig(400)))
    targets, count = data.validation_targets()
    assert data.bits_per_byte(1.0) == pytest.approx(targets / log(2) / count)
    assert data.no_ngrams() == ""
    texts, places = baselines.asked(
        data.corpus.validation, data.validation_documents, data.tokenizer, data._predicted()
    )
    assert len(places) == count
    joined = b"".join(texts)
    written = b"".join(
        data.tokenizer.token_bytes(index)
        for batch in data.validation()
        for index in batch.targets[batch.target_mask].tolist()
    )
    assert sorted(joined[place] for place in places) == sorted(written)
    order0, *_, order5 = data.ngram_bits(5)
    assert order5 < order0 < 8


def test_bytes_of_tokens_by_hand(folder: Path) -> None:
    # Ids 259 and up are pieces; a side of two documents with pieces of known lengths.
    tokenizer = build(a_run(folder, DECODER, CausalConfig(), TrainedConfig(400))).tokenizer
    one, two = tokenizer.encode_documents([b"document 7", b"end\nx"])
    side = Side.held([one, two])
    lengths = tokenizer.byte_lengths[two].tolist()
    # The last token of the second document alone: its bytes are the last of that document.
    texts, places = baselines.asked(
        side, text_of(b"document 7", b"end\nx"), tokenizer, np.array([len(one) + len(two) - 1])
    )
    assert texts == [b"end\nx"]
    assert places.tolist() == list(range(5 - lengths[-1], 5))


def test_words_alone_have_no_ngrams(folder: Path, tmp_path: Path) -> None:
    words = ["[UNK]", "document", "line", "end", *map(str, range(25))]
    library = Library(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    path = tmp_path / "words.json"
    library.save(str(path))
    data: Data = build(a_run(folder, DECODER, CausalConfig(), TokenizerJsonConfig(str(path))))
    assert "does not keep every byte" in data.no_ngrams()
    with pytest.raises(UserError, match="no n-gram baseline: the tokenizer_json vocabulary"):
        data.ngram_bits(5)
    assert data.unigram_nats() > 0


def test_the_vocabulary_of_the_model_is_named(folder: Path) -> None:
    run = a_run(folder, replace(DECODER, vocab_size=384), CausalConfig(), TrainedConfig(400))
    message = r"model.vocab_size = 384: must be at least 400, .*; give --model.vocab-size 400"
    with pytest.raises(ConfigError, match=message):
        build(run)


def test_few_sentinels_make_few_spans(folder: Path) -> None:
    run = a_run(folder, BOTH, SpanConfig(), TrainedConfig(400, sentinels=2))
    with pytest.raises(ConfigError, match="short enough for 2 spans"):
        build(run)


def test_two_vocabularies_share_one_text(folder: Path) -> None:
    learnt = build(a_run(folder, DECODER, CausalConfig(), TrainedConfig(400)))
    run = a_run(folder, DECODER, CausalConfig(), TrainedConfig(390))
    other = build(run)
    assert learnt.corpus.text.folder == other.corpus.text.folder
    assert learnt.corpus.tokens.starts[-1] < other.corpus.tokens.starts[-1]
    again = build(run, learnt.tokenizer)
    assert again.tokenizer == learnt.tokenizer
