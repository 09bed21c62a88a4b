"""Hash routers get their tables from the text when a run begins, and keep them."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from turnout.checkpoint import folders
from turnout.config.routers import HashRouter
from turnout.config.train import RunConfig
from turnout.data import keys
from turnout.data.batch import Stream
from turnout.moe.hash_tables import balanced, clustered, dispersed, random
from turnout.train import hash_tables
from turnout.train.header import loss_line
from turnout.train.session import Session, load_run, open_session
from turnout.train.trainer import Trainer


def hashed(run: RunConfig, router: HashRouter) -> RunConfig:
    assert run.model.moe is not None
    moe = replace(run.model.moe, router=router)
    return replace(run, model=replace(run.model, moe=moe))


def tables(session: Session) -> dict[str, torch.Tensor]:
    layers = session.state.model.sparse_layers()
    return {name: layer.router.get_buffer("table") for name, layer in layers.items()}


def stream_of(session: Session, stack: str) -> Stream:
    """All rows of the first epoch, as the stack reads them."""
    rows = session.data.train_rows
    examples = rows.read(np.arange(rows.num_rows))
    stream = examples.decoder if stack == "decoder" else examples.encoder
    assert stream is not None
    return stream


def pairs(stream: Stream) -> list[tuple[int, int]]:
    """Every id that is read, after the one before it in its document (-1 for the first)."""
    found = []
    rows = (stream.ids.tolist(), stream.mask.tolist(), stream.segment.tolist())
    for ids, mask, segment in zip(*rows, strict=True):
        for place, real in enumerate(mask):
            if real:
                follows = place > 0 and segment[place] == segment[place - 1]
                found.append((ids[place], ids[place - 1] if follows else -1))
    return found


def test_balanced_tables_follow_the_ids_that_each_stack_reads(tiny_run: RunConfig) -> None:
    session = open_session(hashed(tiny_run, HashRouter("balanced")))
    entries, found = session.config.model.vocab_size, tables(session)
    assert found
    for name, table in found.items():
        counts = torch.zeros(entries, dtype=torch.int64)
        for token, number in Counter(i for i, _ in pairs(stream_of(session, name[:7]))).items():
            counts[token] = number
        assert torch.equal(table, balanced(counts, 4)), name
        loads = torch.zeros(4, dtype=torch.int64).index_add_(0, table, counts)
        assert float(loads.max() / counts.sum()) <= 1.05 * max(0.25, counts.max() / counts.sum())


def test_bigram_tables_follow_the_buckets_that_are_read(tiny_run: RunConfig) -> None:
    router = HashRouter("bigram", seed=5, buckets=97)
    session = open_session(hashed(tiny_run, router))
    for name, table in tables(session).items():
        ids, before = map(np.array, zip(*pairs(stream_of(session, name[:7])), strict=True))
        counts = np.bincount(keys.mix(ids, before, 5) % 97, minlength=97)
        assert torch.equal(table, balanced(torch.from_numpy(counts), 4)), name


def test_tables_of_clusters_come_from_the_first_embeddings(tiny_run: RunConfig) -> None:
    for table in ("clustered", "dispersed"):
        session = open_session(hashed(tiny_run, HashRouter(table, seed=2)))
        expected = clustered(session.state.model.embedding.weight, 4, 2)
        if table == "dispersed":
            expected = dispersed(expected, 4)
        assert all(torch.equal(found, expected) for found in tables(session).values())


def test_random_tables_differ_between_layers(tiny_run: RunConfig) -> None:
    session = open_session(hashed(tiny_run, HashRouter(seed=1)))
    for name, layer in session.state.model.sparse_layers().items():
        number = layer.router.layer
        expected = random(session.config.model.vocab_size, 4, 1, number)
        assert torch.equal(tables(session)[name], expected)


def test_no_more_rows_are_read_than_are_needed(
    tiny_run: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = hashed(tiny_run, HashRouter("balanced"))
    whole = tables(open_session(config))
    monkeypatch.setattr(hash_tables, "POSITIONS", 1)
    monkeypatch.setattr(hash_tables, "_ROWS", 2)
    session = open_session(config)
    assert any(not torch.equal(table, whole[name]) for name, table in tables(session).items())


def test_a_checkpoint_keeps_the_tables(
    tiny_run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session(hashed(tiny_run, HashRouter("balanced")))
    by_hand = (torch.arange(session.config.model.vocab_size) * 3) % 4
    for layer in session.state.model.sparse_layers().values():
        layer.router.set_table(by_hand)
    Trainer.of(session, tmp_path / "run").run(1)
    _, model = load_run(tmp_path / "run")
    loaded = [layer.router.table for layer in model.sparse_layers().values()]

    def counted(*_: object) -> None:
        raise AssertionError("a resumed run counts nothing")

    monkeypatch.setattr(hash_tables, "frequencies", counted)
    resumed = open_session(session.config, folders.latest(tmp_path / "run"))
    for table in (*loaded, *tables(resumed).values()):
        assert torch.equal(table, by_hand)


def test_the_header_says_that_there_is_nothing_to_balance(tiny_run: RunConfig) -> None:
    session = open_session(hashed(tiny_run, HashRouter()))
    line = loss_line(session.config.losses, session.state.model)
    assert "balance OFF (the router is fixed), router_z OFF (the router is fixed)" in line
