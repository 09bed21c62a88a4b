import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils import _pytree

from turnout.config.attention import AttentionConfig
from turnout.config.errors import ConfigError, UserError
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.mixture import MixtureConfig, SourceConfig
from turnout.config.model import DecoderOnlyConfig, EncoderDecoderConfig, ModelConfig
from turnout.config.moe import MoEConfig, RowsGroup
from turnout.config.objective import (
    CausalConfig,
    ObjectiveConfig,
    PrefixConfig,
    SpanConfig,
    TextToTextConfig,
)
from turnout.config.train import DataConfig, RunConfig, TrainConfig
from turnout.data.batch import Batch
from turnout.data.mixture import Mixture, block_quotas, quotas, rates, source_seed
from turnout.data.order import Epochs, RowOrder
from turnout.data.pipeline import Data, build
from turnout.data.rows import Examples, RowSource, whole

ATTENTION, FEED_FORWARD = AttentionConfig(num_heads=2, head_dim=4), FeedForwardConfig(d_ff=16)
DECODER = DecoderOnlyConfig(384, 8, 2, ATTENTION, FEED_FORWARD, length=32)
BOTH = EncoderDecoderConfig(
    384, 8, 2, 2, ATTENTION, FEED_FORWARD, encoder_length=64, decoder_length=24
)
FAMILIES: dict[str, tuple[ModelConfig, ObjectiveConfig]] = {
    "one stack": (DECODER, CausalConfig()),
    "two stacks": (BOTH, SpanConfig()),
}


def mixture(*weights: float | None, **options: Any) -> MixtureConfig:
    named = (SourceConfig(chr(97 + j), weight=weight) for j, weight in enumerate(weights))
    return MixtureConfig(tuple(named), **options)


# --- rates and quotas


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # Rows 900, 90 and 10: proportional.
        ({}, (0.9, 0.09, 0.01)),
        # Capped at 90 they count 90, 90 and 10 of 190.
        ({"cap": 90}, (90 / 190, 90 / 190, 10 / 190)),
        # T = 2: the roots 30, 3 sqrt(10) = 9.487 and sqrt(10) = 3.162 of 42.649.
        ({"temperature": 2.0}, (0.70341, 0.22244, 0.07415)),
        # Capped first, then the root: sqrt(90) = 9.487 twice and 3.162, of 22.136.
        ({"temperature": 2.0, "cap": 90}, (0.42857, 0.42857, 0.14286)),
        # A very high temperature is even.
        ({"temperature": 1e9}, (1 / 3, 1 / 3, 1 / 3)),
    ],
)
def test_rates_by_hand(options: dict[str, Any], expected: tuple[float, ...]) -> None:
    found = rates(mixture(None, None, None, **options), [900, 90, 10])
    assert found == pytest.approx(expected, abs=1e-5)


def test_weights_are_the_rates() -> None:
    assert rates(mixture(3.0, 1.0), [1, 10**9]) == (0.75, 0.25)


def test_quotas_by_hand() -> None:
    # Of 10: 4.5, 2.75 and 2.75 give 4, 2, 2; the two left go to the larger remainders.
    assert quotas((0.45, 0.275, 0.275), 10) == (4, 3, 3)
    # 3.33 each: the one left goes to the first.
    assert quotas((1 / 3, 1 / 3, 1 / 3), 10) == (4, 3, 3)
    assert quotas((1.0,), 7) == (7,)


shares = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=8)


@given(shares, st.integers(1, 5000))
def test_quotas_add_up_and_are_near(parts: list[float], size: int) -> None:
    exact = [part / sum(parts) for part in parts]
    found = quotas(exact, size)
    assert sum(found) == size
    for quota, share in zip(found, exact, strict=True):
        assert abs(quota - share * size) < 1 + 1e-6


def test_a_source_that_would_never_be_read() -> None:
    # 10 of 10,010 rows are 0.001: 0.064 of a block of 64.
    with pytest.raises(ConfigError) as error:
        block_quotas(mixture(None, None, block=64), [10_000, 10])
    assert str(error.value) == (
        "data.mixture.block = 64: must be large enough that source 'b', 0.001 of the rows, gets "
        "one; raise it, raise data.mixture.temperature, set data.mixture.cap or give weights"
    )
    assert block_quotas(mixture(None, None, block=1001), [10_000, 10]) == (1000, 1)


# --- the order


class Numbered(RowSource):
    """Rows of one token, which is the row's index; they remember the numbers asked for."""

    def __init__(self, rows: int, first: int) -> None:
        self.rows, self.first = rows, first

    @property
    def num_rows(self) -> int:
        return self.rows

    def read(self, index: np.ndarray, number: np.ndarray) -> Examples:
        stream = whole(self.first + index[:, None])
        return Examples(stream, stream.ids * 0 + torch.from_numpy(number)[:, None], stream.mask)

    def predicted(self, index: np.ndarray, number: np.ndarray) -> np.ndarray:
        return np.sort(index)


def numbered(quota: list[int], seed: int = 0) -> Mixture:
    parts: list[RowOrder] = [Epochs(Numbered(3 + j, 100 * j), j) for j in range(len(quota))]
    return Mixture(tuple(parts), tuple(quota), seed)


some_quotas = st.lists(st.integers(1, 9), min_size=1, max_size=5)


@given(some_quotas, st.integers(0, 2**62), st.integers(0, 10**12))
def test_every_prefix_is_within_a_block_of_the_rates(
    quota: list[int], seed: int, first: int
) -> None:
    size = sum(quota)
    order = numbered(quota, seed)
    start = first * size
    source, place = order.places(np.arange(start, start + 3 * size))
    counts = np.zeros(len(quota), dtype=np.int64)
    for read, (which, at) in enumerate(zip(source.tolist(), place.tolist(), strict=True), 1):
        # Places of a source are 0, 1, 2, .. in the order in which they come.
        assert at == first * quota[which] + counts[which]
        counts[which] += 1
        for j, q in enumerate(quota):
            assert abs(counts[j] - read * q / size) <= q
        if read % size == 0:
            assert counts.tolist() == [q * (read // size) for q in quota]


@given(some_quotas, st.integers(0, 99), st.lists(st.integers(0, 500), min_size=1, max_size=20))
def test_any_rows_in_any_order_are_the_same(quota: list[int], seed: int, wanted: list[int]) -> None:
    order = numbered(quota, seed)
    everything = order.read(np.arange(501))
    some = order.read(np.array(wanted))
    assert some.decoder.ids[:, 0].tolist() == everything.decoder.ids[wanted, 0].tolist()
    assert some.targets[:, 0].tolist() == everything.targets[wanted, 0].tolist()
    assert order.labels(np.array(wanted)).tolist() == [
        int(token) // 100 for token in some.decoder.ids[:, 0]
    ]


def test_a_source_is_read_through_before_it_repeats() -> None:
    order = numbered([2, 5])
    tokens = order.read(np.arange(70)).decoder.ids[:, 0].tolist()
    first = [token for token in tokens if token < 100]  # three rows
    for epoch in range(0, 18, 3):
        assert sorted(first[epoch : epoch + 3]) == [0, 1, 2]


def test_blocks_differ_and_seeds_matter() -> None:
    source, _ = numbered([8, 8]).places(np.arange(32))
    assert source[:16].tolist() != source[16:].tolist()
    assert numbered([8, 8], 1).places(np.arange(32))[0].tolist() != source.tolist()
    assert source_seed(0, "a") != source_seed(0, "b") != source_seed(1, "b")


# --- runs


@pytest.fixture
def text(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "prose").mkdir()
    for i in range(12):
        lines = (f"document {i}, line {j}, to its end\n" for j in range(8 + i))
        (tmp_path / "prose" / f"{i}.txt").write_text("".join(lines))
    sums = [{"inputs": f"{a}+{b}=", "targets": str(a + b)} for a in range(9) for b in range(9)]
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, sums)))
    return {"prose": str(tmp_path / "prose"), "sums": str(tmp_path / "sums.jsonl")}


def a_run(text: dict[str, str], family: str, **train: int) -> RunConfig:
    model, objective = FAMILIES[family]
    sources = (
        SourceConfig("plain", (text["prose"],), weight=2.0),
        SourceConfig("split", (text["prose"],), PrefixConfig(), 1.0),
        SourceConfig("sums", (text["sums"],), TextToTextConfig(max_examples=4), 1.0),
    )
    options = {"steps": 50, "batch_rows": 8, "eval_rows": 16, "seed": 3} | train
    data = DataConfig(validation_share=0.2, mixture=MixtureConfig(sources, block=32))
    return RunConfig(model=model, objective=objective, data=data, train=TrainConfig(**options))


def leaves(batches: list[Batch]) -> list[torch.Tensor]:
    columns = zip(*(_pytree.tree_leaves(batch) for batch in batches), strict=True)
    return [torch.cat(column) for column in columns if column[0] is not None]


@pytest.mark.parametrize("family", FAMILIES)
def test_batches_do_not_depend_on_the_cut_the_order_or_the_build(
    text: dict[str, str], family: str
) -> None:
    data = build(a_run(text, family))
    steps = [data.micro_batches(step)[0] for step in range(20)]

    assert len({batch.targets.shape for batch in steps}) == 1
    for parts in (2, 4, 8):
        again = build(a_run(text, family, micro_batches=parts))
        for step in (19, 0, 7):
            found = zip(leaves(again.micro_batches(step)), leaves([steps[step]]), strict=True)
            assert all(torch.equal(one, other) for one, other in found)


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_and_loss_of_each_source(text: dict[str, str], family: str) -> None:
    data = build(a_run(text, family))
    assert data.source_names == ("plain", "split", "sums")
    rows = [data.micro_batches(step)[0] for step in range(4)]
    labels = torch.cat([batch.labels for batch in rows])
    # A block of 32 rows: 16, 8 and 8.
    assert torch.bincount(labels).tolist() == [16, 8, 8]
    bare = torch.cat([batch.target_mask.sum(1) for batch in rows])
    real = torch.cat([batch.decoder.mask.sum(1) for batch in rows])
    visible = [batch.decoder.visible for batch in rows]
    if family == "one stack":
        # Causal rows predict all they read; the others have prompts, and padding behind them.
        assert torch.equal(bare[labels == 0], real[labels == 0])
        assert bool((bare[labels > 0] < real[labels > 0]).all())
        seen = torch.cat([v.any(1) for v in visible])
        assert torch.equal(seen, labels == 1)
    else:
        assert visible == [None] * 4
        assert torch.equal(bare, real)
    segments = torch.cat([batch.decoder.segment.amax(1) for batch in rows])
    assert int(segments[labels == 2].max()) == 4


@pytest.mark.parametrize("family", FAMILIES)
def test_validation_is_shared_by_rate_and_never_mixed(text: dict[str, str], family: str) -> None:
    data = build(a_run(text, family, micro_batches=2))
    batches = data.validation()
    labels = [batch.labels.unique().tolist() for batch in batches]
    assert all(len(found) == 1 for found in labels)
    # 16 rows at 2 : 1 : 1; a source with fewer held-out rows gives those.
    counts = torch.bincount(torch.cat([batch.labels for batch in batches])).tolist()
    assert all(1 <= count <= most for count, most in zip(counts, (8, 4, 4), strict=True))
    assert torch.cat([batch.row for batch in batches]).tolist() == list(range(sum(counts)))
    targets = torch.cat([batch.targets[batch.target_mask] for batch in batches])
    is_byte = (targets >= 3) & (targets < 259)
    assert data.validation_targets() == (len(targets), int(is_byte.sum()))
    # The bytes whose n-grams are the baseline are those very bytes.
    texts, places = data.asked()
    joined = b"".join(texts)
    written = sorted(joined[at] + 3 for at in places)
    assert written == sorted(targets[is_byte].tolist())
    assert data.ngram_bits(2)[2] < 8


def test_the_summary_names_the_sources(text: dict[str, str]) -> None:
    Path(text["sums"]).write_text(
        Path(text["sums"]).read_text()
        + "\n"
        + json.dumps({"inputs": "x" * 99, "targets": "y"})
        + "\n"
        + json.dumps({"inputs": "x", "targets": ""})
    )
    data = build(a_run(text, "one stack"))
    words = data.summary.text()
    assert "rows: plain 50.0%, split 25.0%, sums 25.0%" in words
    assert "sums: 1 of 82 examples are too long and cut" in words
    assert "skipped 1 without targets" in words
    assert data.summary.documents == 12 + 12 + 82
    assert data.summary.train_rows == data.train_rows.num_rows


def test_text_on_both_sides_is_counted(text: dict[str, str]) -> None:
    run = a_run(text, "one stack")
    # The same folder twice is split alike; one of its held-out files alone is trained on.
    assert "held out in another source" not in build(run).summary.text()
    first = build(run).parts[0].validation.text[0]
    other = Path(text["prose"]).parent / "other"
    other.mkdir()
    (other / "copy").write_bytes(first)
    (other / "own").write_bytes(b"another text\n" * 9)
    seen = None
    for share in (0.2, 0.5):
        sources = (SourceConfig("plain", (text["prose"],)), SourceConfig("other", (str(other),)))
        data = DataConfig(validation_share=share, mixture=MixtureConfig(sources))
        found = build(replace(run, data=data))
        both = set(found.train_documents) & set(found.validation_documents)
        said = "1 training documents are held out in another source"
        assert (said in found.summary.text()) == bool(both)
        seen = seen or bool(both)
    assert seen


def test_a_mixture_of_one_source_reads_what_the_source_alone_has(text: dict[str, str]) -> None:
    run = a_run(text, "one stack")
    alone = replace(
        run, data=replace(run.data, mixture=None, paths=(text["prose"],)), objective=PrefixConfig()
    )
    one = MixtureConfig((SourceConfig("only", (text["prose"],), PrefixConfig()),))
    mixed = build(replace(run, data=replace(run.data, mixture=one)))
    plain = build(alone)
    rows = plain.train_rows.num_rows

    def texts(data: Data) -> list[list[int]]:
        return sorted(data.train_rows.read(np.arange(rows)).targets.tolist())

    assert texts(mixed) == texts(plain)
    assert mixed.source_names == ("only",) and plain.source_names == ()


def test_what_is_wrong_with_a_source_is_said_under_its_name(text: dict[str, str]) -> None:
    run = a_run(text, "one stack")
    Path(text["sums"]).write_text("no JSON")
    with pytest.raises(UserError, match=r"source 'sums' of data\.mixture: .*line 1 is not JSON"):
        build(run)
    group = replace(DECODER, moe=MoEConfig(num_experts=4, group=RowsGroup(64)))
    train = replace(run.train, batch_rows=64, eval_rows=64)
    with pytest.raises(UserError, match=r"source 'plain': .*fewer than a routing group of 64"):
        sources = run.data.mixture.sources[:2]
        data = replace(run.data, mixture=MixtureConfig(sources))
        build(replace(run, model=group, train=train, data=data))
