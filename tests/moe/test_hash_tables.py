"""Tables for hash routing: by hand, on Zipf's law, and what k-means must find."""

import sysconfig
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from turnout.data import keys
from turnout.moe.hash_tables import (
    _spread_centres,
    balanced,
    bucket,
    clustered,
    dispersed,
    random,
)


def zipf(entries: int, exponent: float = 1.0, shift: float = 0.0) -> Tensor:
    """Counts proportional to 1 / (rank + shift)^exponent, in no order; the commonest has 1e7."""
    rank = torch.arange(1, entries + 1, dtype=torch.float64)
    counts = (1e7 * ((1 + shift) / (rank + shift)) ** exponent).long()
    return counts[torch.randperm(entries, generator=torch.Generator().manual_seed(0))]


def loads(counts: Tensor, table: Tensor, experts: int) -> Tensor:
    """Each expert's share of the counts."""
    found = torch.zeros(experts, dtype=torch.float64).index_add_(0, table, counts.double())
    return found / counts.sum()


def test_random_tables_are_the_hash_of_entry_seed_and_layer():
    expected = keys.mix(np.arange(1000), 3, 5) % 7
    assert random(1000, 7, 3, 5).tolist() == expected.tolist()
    assert not torch.equal(random(1000, 7, 3, 5), random(1000, 7, 3, 6))
    assert not torch.equal(random(1000, 7, 3, 5), random(1000, 7, 4, 5))
    # 80,000 entries, 10,000 an expert expected, deviation sqrt(80000 / 8 * 7 / 8) = 94
    held = torch.bincount(random(80_000, 8, 0), minlength=8)
    assert (held - 10_000).abs().max() < 5 * 94


def test_buckets_are_the_hash_of_both_ids():
    ids, before = np.array([3, 3, 4, 0]), np.array([7, -1, 7, 0])
    expected = keys.mix(ids, before, 2) % 11
    assert bucket(torch.tensor(ids), torch.tensor(before), 11, 2).tolist() == expected.tolist()
    assert len(set(bucket(torch.arange(5), torch.full((5,), -1), 1000, 0).tolist())) == 5


def test_balanced_by_hand():
    # 5 to expert 0, 4 to 1, 3 to 1 (4 < 5) for 7, 3 to 0 for 8, 1 to 1 for 8
    assert balanced(torch.tensor([5, 1, 4, 3, 3]), 2).tolist() == [0, 1, 1, 1, 0]
    # ties: lower entries first, lower experts first
    assert balanced(torch.tensor([2, 2, 2, 2, 2]), 3).tolist() == [0, 1, 2, 0, 1]


def test_entries_that_were_never_counted_are_spread_by_number():
    # 9 to expert 0, 1 to expert 1: both hold one entry, and take the others in turn
    assert balanced(torch.tensor([9, 0, 0, 0, 1]), 2).tolist() == [0, 0, 1, 0, 1]
    assert balanced(torch.zeros(5, dtype=torch.int64), 2).tolist() == [0, 1, 0, 1, 0]
    # 4 to expert 0; 1, 1, 1 to expert 1, which then holds three: the next two go to expert 0
    assert balanced(torch.tensor([4, 1, 1, 1, 0, 0, 0]), 2).tolist() == [0, 1, 1, 1, 0, 0, 0]


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=60), st.integers(1, 9))
def test_no_two_loads_differ_by_more_than_the_commonest_entry(counts: list[int], experts: int):
    table = balanced(torch.tensor(counts), experts)
    found = [0] * experts
    for count, expert in zip(counts, table.tolist(), strict=True):
        found[expert] += count
    assert max(found) - min(found) <= max(counts)


@pytest.mark.parametrize("experts", [2, 8, 16, 64])
@pytest.mark.parametrize("exponent", [0.8, 1.0, 1.2])
@pytest.mark.parametrize("entries", [8192, 32_000])
def test_the_heaviest_load_is_that_of_the_commonest_entry_or_an_even_share(
    entries, exponent, experts
):
    counts = zipf(entries, exponent)
    found = loads(counts, balanced(counts, experts), experts)
    bound = max(1 / experts, float(counts.max() / counts.sum()))
    assert float(found.max()) <= 1.05 * bound


# Of 8,192 words by Zipf's law the commonest has 1 / H(8192) = 10.4% of the text, more than one of
# 16 experts' share. Text is flatter at the top: Mandelbrot's 1 / (rank + 2.7) gives it 3.5%.
@pytest.mark.parametrize(("experts", "shift"), [(2, 0.0), (8, 0.0), (2, 2.7), (8, 2.7), (16, 2.7)])
def test_loads_of_natural_frequencies_are_even(experts, shift):
    counts = zipf(8192, shift=shift)
    found = loads(counts, balanced(counts, experts), experts)
    assert (found * experts - 1).abs().max() <= 0.05


def blobs() -> tuple[Tensor, Tensor]:
    """60 points around 3 corners, far apart, in mixed order, and the corner of each."""
    corner = torch.arange(60) % 3
    noise = torch.randn(60, 4, generator=torch.Generator().manual_seed(1))
    return 20 * torch.eye(4)[corner] + noise, corner


@pytest.mark.parametrize("seed", range(5))
def test_clusters_that_are_there_are_found(seed):
    points, corner = blobs()
    table = clustered(points, 3, seed)
    pairs = {(int(a), int(b)) for a, b in zip(corner, table, strict=True)}
    assert len(pairs) == 3 and len({b for _, b in pairs}) == 3
    assert torch.equal(clustered(points, 3, seed), table)


def test_every_entry_is_nearest_to_its_own_cluster():
    points = torch.randn(200, 6, generator=torch.Generator().manual_seed(3))
    table = clustered(points, 8, 0)
    means = torch.stack([points[table == e].mean(0) for e in range(8)])
    assert torch.equal(torch.cdist(points, means).argmin(1), table)


def test_centres_are_drawn_by_squared_distance():
    # Points 0, 1 and 3 on a line: from 0 the others weigh 1 and 9, from 1 1 and 4, from 3 9 and 4.
    points, odds = torch.tensor([[0.0], [1.0], [3.0]]), {0: (3, 0.9), 1: (3, 0.8), 3: (0, 9 / 13)}
    drawn = [tuple(_spread_centres(points, 2, seed).flatten().tolist()) for seed in range(1500)]
    for first, (second, chance) in odds.items():
        after = [pair[1] for pair in drawn if pair[0] == first]
        assert abs(len(after) - 500) < 4 * (1500 * 2 / 9) ** 0.5
        spread = 4 * (chance * (1 - chance) / len(after)) ** 0.5
        assert abs(after.count(second) / len(after) - chance) < spread


@pytest.mark.parametrize("points", [torch.zeros(6, 2), torch.tensor([[0.0, 1.0]] * 3 + [[5.0, 0]])])
def test_fewer_different_embeddings_than_experts(points):
    table = clustered(points, 5, 0)
    groups = {tuple(row): set() for row in points.tolist()}
    for row, expert in zip(points.tolist(), table.tolist(), strict=True):
        groups[tuple(row)].add(expert)
    assert all(len(found) == 1 for found in groups.values())
    assert len(set(table.tolist())) == len(groups)


def test_dispersed_by_hand():
    # Cluster 0 holds entries 1, 2, 4: experts 0, 1, 2. Cluster 1 goes on: 0, 1 of 3 experts.
    assert dispersed(torch.tensor([1, 0, 0, 1, 0]), 3).tolist() == [0, 0, 1, 1, 2]


def test_dispersed_separates_what_is_clustered():
    points, _ = blobs()
    clusters = clustered(points, 3, 0)
    table = dispersed(clusters, 7)
    for cluster in range(3):  # 20 entries over 7 experts: 2 or 3 each
        held = torch.bincount(table[clusters == cluster], minlength=7)
        assert set(held.tolist()) == {2, 3}
    assert set(torch.bincount(table).tolist()) == {8, 9}  # 60 over 7


@pytest.mark.slow
def test_a_learnt_vocabulary_of_real_text():
    """8,192 pieces learnt from Python's library: the commonest has some 4% of the text, less than
    a sixteenth, so that 16 experts can share it evenly."""
    root = Path(sysconfig.get_paths()["stdlib"])
    texts = [path.read_text(errors="ignore") for path in sorted(root.glob("*.py"))]
    lines = [line for text in texts for line in text.splitlines() if line.strip()]
    written = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=written,
        vocab_size=8192,
        model_type="bpe",
        num_threads=1,
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    ids = torch.tensor([index for found in pieces.encode(lines) for index in found])
    counts = torch.bincount(ids, minlength=8192)
    assert float(counts.max() / counts.sum()) < 1 / 16
    for experts in (2, 4, 8, 16):
        table = balanced(counts, experts)
        loads = torch.zeros(experts, dtype=torch.int64).scatter_add_(0, table, counts)
        assert experts * int(loads.min()) / int(counts.sum()) > 0.95
        assert experts * int(loads.max()) / int(counts.sum()) < 1.05
