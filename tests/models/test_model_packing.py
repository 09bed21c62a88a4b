"""Packed documents are the same documents in rows of their own; no token reads its future."""

from dataclasses import replace

import pytest
import torch

from tests.models.cases import CASES, DENSE, VOCABULARY, batch_for, batch_of, stream
from turnout.config.errors import UserError
from turnout.config.model import ModelConfig
from turnout.config.moe import DocumentGroup, RowsGroup
from turnout.data.batch import Stream
from turnout.models import build
from turnout.models.contexts import Contexts, grouping

DOCUMENTS = [5, 3, 6]


def packed(rows: Stream) -> Stream:
    """The documents of ``rows`` behind each other in one row, with two slots of padding."""
    fields = {
        "ids": [rows.ids[i, :n] for i, n in enumerate(DOCUMENTS)],
        "position": [torch.arange(n) for n in DOCUMENTS],
        "segment": [torch.full((n,), i + 1) for i, n in enumerate(DOCUMENTS)],
    }
    joined = {
        name: torch.cat([*parts, torch.zeros(2, dtype=torch.int64)]).unsqueeze(0)
        for name, parts in fields.items()
    }
    return Stream(mask=joined["segment"] > 0, max_segments=4, **joined)


def by_document(config: ModelConfig) -> ModelConfig:
    moe = config.moe and replace(
        config.moe,
        group=DocumentGroup(),
        train_capacity_factor=1.0,
        output_masking=0.0,  # its draws go by the row, which packing changes
    )
    return replace(config, moe=moe)


@pytest.mark.parametrize("name", CASES)
def test_packed_documents_are_separate_rows(name: str) -> None:
    # In training, with a capacity: documents are the routing groups, so drops agree as well.
    config = by_document(CASES[name])
    model = build(config)
    model.init_weights(0)
    rows, encoder_rows = stream(DOCUMENTS, 8), stream(DOCUMENTS, 8, seed=1)
    has_encoder = config.kind == "encoder_decoder"
    apart = model(batch_of(rows, encoder_rows if has_encoder else None))
    together = model(batch_of(packed(rows), packed(encoder_rows) if has_encoder else None))
    expected = torch.cat([apart.hidden[i, :n] for i, n in enumerate(DOCUMENTS)])
    torch.testing.assert_close(together.hidden[0, :14], expected, atol=1e-5, rtol=1e-5)
    for one, other in zip(apart.layers, together.layers, strict=True):
        assert torch.equal(one.kept, other.kept[:3])
        assert other.kept[3].sum() == 0
        assert torch.equal(one.unrouted, other.unrouted[:3])


@pytest.mark.parametrize("name", [n for n in DENSE if n != "t5"])
def test_no_token_reads_its_future(name: str) -> None:
    model = build(DENSE[name])
    model.init_weights(0)
    batch = batch_for(DENSE[name], [12, 12], [12, 12], width=12)
    before = model(batch).hidden
    for t in range(1, 12):
        ids = batch.decoder.ids.clone()
        ids[:, t] = (ids[:, t] + 7) % VOCABULARY
        after = model(batch_of(replace(batch.decoder, ids=ids))).hidden
        assert torch.equal(before[:, :t], after[:, :t])
        assert not torch.equal(before[:, t], after[:, t])


def test_the_decoder_of_an_encoder_does_not_read_its_future() -> None:
    model = build(DENSE["t5"])
    model.init_weights(0)
    batch = batch_for(DENSE["t5"], [12], [9], width=12)
    ids = batch.decoder.ids.clone()
    ids[:, 6] = (ids[:, 6] + 7) % VOCABULARY
    before = model(batch).hidden
    after = model(batch_of(replace(batch.decoder, ids=ids), batch.encoder)).hidden
    assert torch.equal(before[:, :6], after[:, :6])
    assert not torch.equal(before[:, 6], after[:, 6])


def test_contexts_of_every_group() -> None:
    batch = batch_for(CASES["switch"], [5, 3, 6, 2], [1, 2, 3, 4])
    moe = CASES["switch"].moe
    assert moe is not None
    rows2 = Contexts.of(replace(moe, group=RowsGroup(2)))
    assert rows2.context(batch.decoder, batch).num_groups == 2
    assert rows2.alone(batch.decoder, batch).num_groups == 4
    assert Contexts.of(None).context(batch.decoder, batch).num_groups == 4
    documents = Contexts.of(replace(moe, group=DocumentGroup()))
    several = replace(batch.decoder, max_segments=3)
    assert documents.context(several, batch).num_groups == 12
    with pytest.raises(UserError, match="cuts a routing group of 3 rows"):
        grouping(RowsGroup(3)).context(batch.decoder, batch)


def test_configured_tokens_of_a_group() -> None:
    assert grouping(RowsGroup(2)).tokens(16) == 32
    assert grouping(DocumentGroup()).tokens(16) == 16


def test_contexts_carry_keys_ids_labels_and_progress() -> None:
    batch = replace(
        batch_for(CASES["switch"], [5, 3], [1, 2]),
        keys=torch.tensor([70, 80]),
        labels=torch.tensor([3, 4]),
        progress=0.25,
    )
    context = grouping(RowsGroup()).context(batch.decoder, batch)
    assert context.keys.tolist() == [70, 80]
    assert context.labels is not None and context.labels.tolist() == [3, 4]
    assert context.token_ids is batch.decoder.ids
    assert context.progress == 0.25
