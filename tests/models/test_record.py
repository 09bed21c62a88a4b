"""A record of routing: saved, loaded, replayed forward and backward; other engines' too."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.moe.cases import ROUTERS, relative_error
from tests.objectives.cases import LENGTH, MODERN, T5, RowsGroup, build, part, sparse
from turnout.config.errors import UserError
from turnout.config.routers import InputJitter, SwitchRouter, TopKRouter
from turnout.models.base import Model
from turnout.moe import RoutingRecord

BATCH = part([[7, 5], [12], [3], [9, 2]], 0, LENGTH)
NAME = "decoder.1.moe"


def gradients(model: Model, record: RoutingRecord | None) -> dict[str, torch.Tensor]:
    hidden = model(BATCH, replay=record).hidden
    upstream = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2))
    model.zero_grad()
    (hidden * upstream).sum().backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("capacity", [None, 0.5])
@pytest.mark.parametrize("name", ROUTERS)
def test_replaying_what_happened_changes_nothing(name, capacity):
    model = build(sparse(ROUTERS[name], capacity, RowsGroup()))
    output = model(BATCH, routing=True)
    again = model(BATCH, routing=True, replay=output.routing)
    assert relative_error(again.hidden.detach(), output.hidden.detach()) < 1e-6
    (before,), (after,) = output.routing.layers, again.routing.layers
    assert torch.equal(after.expert.sort(2).values, before.expert.sort(2).values)
    expected, found = gradients(model, None), gradients(model, output.routing)
    for each, gradient in expected.items():
        assert relative_error(found[each], gradient) < 1e-5, each


def test_a_record_overrules_the_router_and_trains_it():
    model = build(sparse(TopKRouter(2, "raw"), None, RowsGroup()))
    own = model(BATCH, routing=True).routing
    expert = (own.layers[0].expert + 1) % 4
    forced = RoutingRecord.of_experts([NAME], expert.unsqueeze(2))
    output = model(BATCH, routing=True, replay=forced)
    real = BATCH.decoder.mask
    assert torch.equal(output.routing.layers[0].expert[real], expert[real])
    router = next(n for n, _ in model.named_parameters() if n.endswith("router.weight"))
    assert float(gradients(model, forced)[router].abs().max()) > 0


def test_noise_and_drops_are_replayed_in_evaluation():
    model = build(sparse(SwitchRouter(InputJitter(0.5)), 0.5, RowsGroup()))
    trained = model(BATCH, routing=True)
    replayed = model.eval()(BATCH, routing=True, replay=trained.routing)
    assert int((trained.routing.layers[0].expert < 0).sum()) > int((~BATCH.decoder.mask).sum())
    assert torch.equal(replayed.routing.layers[0].expert, trained.routing.layers[0].expert)


@pytest.mark.parametrize("family", [MODERN, T5], ids=["decoder-only", "encoder-decoder"])
def test_saved_and_loaded(family, tmp_path: Path):
    batch = part([[7, 5], [12]], 0, LENGTH, encoder=family is T5)
    model = build(sparse(TopKRouter(2), 1.0, RowsGroup()), family)
    output = model(batch, routing=True)
    output.routing.save(tmp_path / "routing.safetensors")
    loaded = RoutingRecord.load(tmp_path / "routing.safetensors")
    assert loaded.names == output.routing.names
    for one, two in zip(loaded.layers, output.routing.layers, strict=True):
        for each in ("expert", "named", "live", "weight", "log_probability"):
            assert torch.equal(getattr(one, each), getattr(two, each))
    assert torch.equal(model(batch, replay=loaded).hidden, output.hidden)


def test_another_engine_writes_experts_alone(tmp_path: Path):
    model = build(sparse(TopKRouter(2), None, RowsGroup()))
    output = model(BATCH, routing=True)
    expert = output.routing.layers[0].expert.to(torch.int32).contiguous()
    save_file({f"{NAME}.expert": expert}, str(tmp_path / "theirs.safetensors"))
    theirs = RoutingRecord.load(tmp_path / "theirs.safetensors")
    assert bool(theirs.layers[0].weight.isnan().all())
    assert torch.equal(model(BATCH, replay=theirs).hidden, output.hidden)


def broken_records():
    expert = torch.zeros(4, LENGTH, 1, 1, dtype=torch.int64)
    yield RoutingRecord.of_experts(["decoder.3.moe"], expert), f"has no layer '{NAME}'"
    yield RoutingRecord.of_experts([NAME], expert[:, :5]), r"recorded for \(4, 5\) tokens"
    yield RoutingRecord.of_experts([NAME], expert + 4), "names experts that are not among its 4"
    yield RoutingRecord.of_experts([NAME], expert - 2), "names experts that are not among its 4"
    two = expert.expand(-1, -1, -1, 2)
    yield RoutingRecord.of_experts([NAME], two), "the record has 2 choices for each of 48 tokens"


@pytest.mark.parametrize(("record", "message"), list(broken_records()))
def test_a_record_of_another_model_is_refused(record, message):
    model = build(sparse(SwitchRouter(), None, RowsGroup()))
    with pytest.raises(UserError, match=f"^replay: .*{message}"):
        model(BATCH, replay=record)


def test_a_record_and_a_cache_do_not_go_together():
    model = build(sparse(SwitchRouter(), None, RowsGroup())).eval()
    record = model(BATCH, routing=True).routing
    alone = replace(BATCH, decoder=replace(BATCH.decoder, max_segments=1))
    with torch.no_grad(), pytest.raises(UserError, match=r"^replay: goes with whole rows"):
        model(alone, cache=model.empty_cache(4, LENGTH), replay=record)


@pytest.mark.parametrize("content", [b"", b"no tensors here", b"\x08" + bytes(20)])
def test_a_file_that_is_no_record(content, tmp_path: Path):
    path = tmp_path / "routing.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"^cannot read the record"):
        RoutingRecord.load(path)
    save_file({"weights": torch.zeros(2)}, str(path))
    with pytest.raises(UserError, match="holds no record of routing"):
        RoutingRecord.load(path)
    with pytest.raises(UserError, match=r"^cannot read the record"):
        RoutingRecord.load(tmp_path / "missing")
