from dataclasses import asdict, replace
from math import log
from pathlib import Path

import pytest
import torch
from torch.utils import _pytree

from turnout.config.attention import AttentionConfig
from turnout.config.errors import ConfigError, UserError
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.model import DecoderOnlyConfig, EncoderDecoderConfig
from turnout.config.moe import MoEConfig, RowsGroup
from turnout.config.train import CausalConfig, DataConfig, RunConfig, SpanConfig, TrainConfig
from turnout.data.batch import Batch
from turnout.data.keys import mix
from turnout.data.pipeline import build

ATTENTION, FEED_FORWARD = AttentionConfig(num_heads=2, head_dim=4), FeedForwardConfig(d_ff=16)
DECODER = DecoderOnlyConfig(384, 8, 1, ATTENTION, FEED_FORWARD, length=32)
BOTH = EncoderDecoderConfig(
    384, 8, 1, 1, ATTENTION, FEED_FORWARD, encoder_length=64, decoder_length=14
)
TRAIN = TrainConfig(steps=10, batch_rows=8, micro_batches=1, eval_rows=10, seed=3)
OBJECTIVES = ((DECODER, CausalConfig()), (BOTH, SpanConfig()))


@pytest.fixture
def folder(tmp_path: Path) -> str:
    for i in range(20):
        lines = (f"document {i}, line {j}: {'naïve ' * (i % 5)}end\n" for j in range(5 + i))
        (tmp_path / f"{i:02}.txt").write_text("".join(lines))
    return str(tmp_path)


def a_run(folder: str, model: object, objective: object, **train: int) -> RunConfig:
    return RunConfig(
        model=model,
        objective=objective,
        data=DataConfig(paths=(folder,), validation_share=0.2),
        train=replace(TRAIN, **train),
    )


def joined(batches: list[Batch]) -> Batch:
    """The batches as one; non-tensors are those of the first."""
    trees = [_pytree.tree_flatten(batch) for batch in batches]
    leaves = [
        torch.cat(parts) if parts[0] is not None else None
        for parts in zip(*(t[0] for t in trees), strict=True)
    ]
    return _pytree.tree_unflatten(leaves, trees[0][1])


def same(a: Batch, b: Batch) -> bool:
    (left, spec), (right, other) = _pytree.tree_flatten(a), _pytree.tree_flatten(b)
    pairs = zip(left, right, strict=True)
    return spec == other and all(
        x is y if x is None else x.dtype == y.dtype and torch.equal(x, y) for x, y in pairs
    )


@pytest.mark.parametrize(("model", "objective"), OBJECTIVES)
def test_rows_do_not_depend_on_the_cut_the_order_or_the_build(
    folder: str, model: object, objective: object
) -> None:
    whole = build(a_run(folder, model, objective))
    steps = [whole.micro_batches(step)[0] for step in range(10)]
    assert [len(batch.row) for batch in steps] == [8] * 10
    for parts in (2, 4, 8):
        cut = build(a_run(folder, model, objective, micro_batches=parts))
        for step in (9, 0, 4):
            batches = cut.micro_batches(step)
            assert len(batches) == parts
            assert same(joined(batches), steps[step])


@pytest.mark.parametrize(("model", "objective"), OBJECTIVES)
def test_keys_rows_and_progress(folder: str, model: object, objective: object) -> None:
    data = build(a_run(folder, model, objective, micro_batches=2))
    first, second = data.micro_batches(5)
    # Step 5 of 8 rows a step begins at row 40; its second half at 44.
    assert first.row.tolist() == [40, 41, 42, 43] and second.row.tolist() == [44, 45, 46, 47]
    assert second.keys.tolist() == [int(mix(3, 5, row)) for row in (44, 45, 46, 47)]
    assert first.progress == second.progress == 0.5
    assert first.labels is None
    assert all(leaf.dtype in (torch.int64, torch.bool) for leaf in _leaves(first))


def _leaves(batch: Batch) -> list[torch.Tensor]:
    return [leaf for leaf in _pytree.tree_leaves(batch) if leaf is not None]


def test_every_epoch_holds_every_row_in_an_order_of_its_own(folder: str) -> None:
    data = build(a_run(folder, DECODER, CausalConfig(), batch_rows=1, steps=1000))
    count = data.train_rows.num_rows
    rows = [tuple(data.micro_batches(step)[0].targets[0].tolist()) for step in range(2 * count)]
    assert sorted(rows[:count]) == sorted(rows[count:])
    assert rows[:count] != rows[count:]


@pytest.mark.parametrize(("model", "objective"), OBJECTIVES)
def test_seeds_move_what_they_should(folder: str, model: object, objective: object) -> None:
    run = a_run(folder, model, objective)
    base = build(run)
    other_order = build(replace(run, data=replace(run.data, seed=1)))
    other_keys = build(replace(run, train=replace(run.train, seed=4)))
    step = base.micro_batches(0)[0]
    assert not torch.equal(other_order.micro_batches(0)[0].targets, step.targets)
    assert torch.equal(other_keys.micro_batches(0)[0].targets, step.targets)
    assert not torch.equal(other_keys.micro_batches(0)[0].keys, step.keys)
    for data in (other_order, other_keys):
        assert same(joined(data.validation()), joined(base.validation()))


@pytest.mark.parametrize(("model", "objective"), OBJECTIVES)
def test_validation_is_fixed_and_held_out(folder: str, model: object, objective: object) -> None:
    data = build(a_run(folder, model, objective, micro_batches=2))
    batches = data.validation()
    # 10 rows in micro-batches of 8 / 2 = 4.
    assert [len(batch.row) for batch in batches] == [4, 4, 2]
    assert same(joined(batches), joined(data.validation()))
    assert joined(batches).row.tolist() == list(range(10))
    assert not set(data.train_documents) & set(data.validation_documents)
    assert data.train_bytes == sum(map(len, data.train_documents))


@pytest.mark.parametrize(("model", "objective"), OBJECTIVES)
def test_baselines_are_on_the_very_bytes_of_validation(
    folder: str, model: object, objective: object
) -> None:
    data = build(a_run(folder, model, objective))
    targets = joined(data.validation()).targets[joined(data.validation()).target_mask]
    text = (targets >= 3) & (targets < 259)
    assert data.validation_targets() == (len(targets), int(text.sum()))
    # One nat a target: all targets' nats, in bits, over the bytes of text.
    expected = len(targets) / log(2) / int(text.sum())
    assert data.bits_per_byte(1.0) == pytest.approx(expected)
    order0, *_, order5 = data.ngram_bits(5)
    assert order5 < order0 < 8
    assert data.unigram_nats() < log(384)


def test_ngrams_score_the_predicted_bytes(folder: str) -> None:
    data = build(a_run(folder, DECODER, CausalConfig()))
    texts, predicted = data.asked()
    assert set(texts) <= set(data.validation_documents)
    joined_text = b"".join(texts)
    targets = joined(data.validation()).targets.flatten()
    written = sorted(targets[targets >= 3].tolist())
    assert sorted(joined_text[at] + 3 for at in predicted) == written


def test_summary_is_plain_and_says_what_happened(folder: str) -> None:
    Path(folder, "image").write_bytes(b"\0")
    Path(folder, "latin").write_bytes(b"caf\xe9, " + b"x" * 40)
    data = build(a_run(folder, DECODER, CausalConfig()))
    assert asdict(data.summary)["documents"] == 21
    assert data.summary.train_bytes + data.summary.validation_bytes == data.summary.bytes
    text = data.summary.text()
    assert "21 documents" in text and "skipped 1 binary" in text
    assert "1 not quite UTF-8, repaired" in text and data.summary.sha256[:12] in text


def test_one_document(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"a line of text\n" * 100)
    data = build(a_run(str(tmp_path / "one"), DECODER, CausalConfig()))
    assert "one document: its last 300 bytes are held out" in data.summary.text()
    assert tuple(data.validation_documents) == (b"a line of text\n" * 20,)


def test_too_short_to_train_on(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"ten bytes\n")
    path = str(tmp_path / "one")
    # Eight bytes are left for training, and an end of text.
    with pytest.raises(
        UserError, match="9 tokens of training text are too short for one row of 32"
    ):
        build(a_run(path, DECODER, CausalConfig()))
    with pytest.raises(UserError, match=r"8 tokens of training .* one row of 70"):
        build(a_run(path, BOTH, SpanConfig()))


def test_models_that_cannot_have_this(folder: str) -> None:
    cases = (
        (replace(DECODER, vocab_size=256), CausalConfig(), "model.vocab_size = 256: .* 384"),
        (replace(BOTH, decoder_length=13), SpanConfig(), "model.decoder_length = 13: .* 14"),
    )
    for model, objective, message in cases:
        with pytest.raises(ConfigError, match=message):
            build(a_run(folder, model, objective))


def test_routing_groups_are_never_cut(folder: str) -> None:
    model = replace(DECODER, num_layers=2, moe=MoEConfig(num_experts=4, group=RowsGroup(4)))
    data = build(a_run(folder, model, CausalConfig(), eval_rows=4000))
    assert all(len(batch.row) % 4 == 0 for batch in data.validation())
    huge = replace(DECODER, num_layers=2, moe=MoEConfig(num_experts=4, group=RowsGroup(4000)))
    with pytest.raises(UserError, match=r"fewer than a routing group of 4000"):
        build(a_run(folder, huge, CausalConfig(), eval_rows=4000, batch_rows=4000))
