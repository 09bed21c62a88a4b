"""Batches, units and baselines with vocabularies other than bytes."""

import json
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
from turnout.config.mixture import MixtureConfig, SourceConfig
from turnout.config.model import DecoderOnlyConfig, EncoderDecoderConfig
from turnout.config.objective import CausalConfig, PrefixConfig, SpanConfig, TextToTextConfig
from turnout.config.tokenizers import TokenizerJsonConfig, TrainedConfig
from turnout.config.train import DataConfig, RunConfig, TrainConfig
from turnout.data import baselines
from turnout.data.pipeline import Data, build
from turnout.data.shards.text import Text
from turnout.data.side import Side, SideText

ATTENTION, FEED_FORWARD = AttentionConfig(num_heads=2, head_dim=4), FeedForwardConfig(d_ff=16)
DECODER = DecoderOnlyConfig(400, 8, 1, ATTENTION, FEED_FORWARD, length=32)
BOTH = EncoderDecoderConfig(
    400, 8, 1, 1, ATTENTION, FEED_FORWARD, encoder_length=64, decoder_length=14
)
OBJECTIVES = (
    (DECODER, CausalConfig()),
    (BOTH, SpanConfig()),
    (DECODER, PrefixConfig()),
    (BOTH, PrefixConfig()),
)


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
            if (model, objective) in ((DECODER, CausalConfig()), (BOTH, PrefixConfig())):
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
    texts, places = data.asked()
    assert len(places) == count
    joined = b"".join(texts)
    assert sorted(joined[place] for place in places) == sorted(words(data))
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


def test_two_vocabularies_share_one_text(folder: Path, tmp_path: Path) -> None:
    def cached(size: int) -> RunConfig:
        run = a_run(folder, DECODER, CausalConfig(), TrainedConfig(size))
        return replace(run, data=replace(run.data, cache=str(tmp_path / "cache")))

    learnt, run = build(cached(400)), cached(390)
    other = build(run)
    assert learnt.summary.sha256 == other.summary.sha256
    assert learnt.summary.tokens < other.summary.tokens
    assert len([*tmp_path.glob("cache/corpora/*/text-*")]) == 1
    assert len([*tmp_path.glob("cache/corpora/*/text-*/tokens-*")]) == 2
    again = build(run, learnt.tokenizer)
    assert again.tokenizer == learnt.tokenizer


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    lines = [
        {"inputs": f"what is {a} and {b}? ", "targets": f"the sum is {a + b}"}
        for a in range(12)
        for b in range(12)
    ]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path / "questions.jsonl"


def words(data: Data) -> bytes:
    """The text of all held-out targets."""
    return b"".join(
        data.tokenizer.token_bytes(index)
        for batch in data.validation()
        for index in batch.targets[batch.target_mask].tolist()
    )


@pytest.mark.parametrize("model", [DECODER, BOTH], ids=["one stack", "two stacks"])
def test_examples_in_a_learnt_vocabulary(questions: Path, model: object) -> None:
    run = a_run(questions, model, TextToTextConfig(), TrainedConfig(340, sentinels=4))
    data = build(run)
    assert data.summary.tokens < data.summary.bytes
    for batch in data.micro_batches(0):
        for row in range(len(batch.row)):
            targets = batch.targets[row][batch.target_mask[row]].tolist()
            assert data.tokenizer.decode(targets).startswith("the sum is ")
            assert targets.count(data.tokenizer.eos) == int(batch.decoder.segment[row].max())
    texts, places = data.asked()
    joined = b"".join(texts)
    assert sorted(joined[place] for place in places) == sorted(words(data))
    assert len(places) == data.validation_targets()[1]
    assert build(run).tokenizer.fingerprint == data.tokenizer.fingerprint


def test_a_mixture_learns_one_vocabulary_from_all_its_sources(
    folder: Path, questions: Path
) -> None:
    run = a_run(folder, DECODER, CausalConfig(), TrainedConfig(400))
    sources = (
        SourceConfig("prose", (str(folder),)),
        SourceConfig("split", (str(folder),), PrefixConfig()),
        SourceConfig("sums", (str(questions),), TextToTextConfig()),
    )
    data = replace(run.data, paths=(), mixture=MixtureConfig(sources, block=64))
    mixed = build(replace(run, data=data))
    alone = build(run).tokenizer
    tokenizer = mixed.tokenizer
    assert {part.tokenizer.fingerprint for part in mixed.parts} == {tokenizer.fingerprint}
    # Each kind of text is shorter in a vocabulary that was learnt from it.
    assert len(tokenizer.encode("the sum is ")) < len(alone.encode("the sum is "))
    assert len(tokenizer.encode("document ")) < len("document ")
    texts, places = mixed.asked()
    joined = b"".join(texts)
    assert sorted(joined[place] for place in places) == sorted(words(mixed))
    assert mixed.summary.tokens == sum(part.summary.tokens for part in mixed.parts)
    assert build(replace(run, data=data)).tokenizer.fingerprint == tokenizer.fingerprint
