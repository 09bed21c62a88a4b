"""Decoding with a cache is the full forward pass, whatever the padding."""

from dataclasses import replace

import pytest
import torch

from tests.models.cases import CASES, LENGTH, MODERN, SPARSE, T5, batch_for, batch_of, part, stream
from turnout.config.errors import UserError
from turnout.config.model import ModelConfig
from turnout.config.routers import ForcedRouter, HashRouter, RouterConfig, ThorRouter
from turnout.data.batch import Batch
from turnout.models import Model, ModelOutput, build
from turnout.models.cache import Memory


def ready(config: ModelConfig) -> Model:
    model = build(config)
    model.init_weights(0)
    return model.eval()


@torch.no_grad()
def in_pieces(model: Model, batch: Batch, cuts: list[int]) -> list[ModelOutput]:
    """The decoder's tokens in pieces that end at ``cuts``; the encoder goes in with the first."""
    cache = model.empty_cache(len(batch.row), cuts[-1])
    outputs = []
    for start, end in zip([0, *cuts], cuts, strict=False):
        piece = batch_of(part(batch.decoder, start, end), None if start else batch.encoder)
        output = model(piece, cache=cache)
        assert output.cache is not None
        cache = output.cache
        outputs.append(output)
    return outputs


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", CASES)
def test_pieces_are_the_whole(name: str, side: str) -> None:
    model = ready(CASES[name])
    batch = batch_for(CASES[name], [16, 9, 12], [11, 16, 3], side=side)
    with torch.no_grad():
        whole = model(batch)
    outputs = in_pieces(model, batch, [8, 9, 10, 14, 16])
    logits = torch.cat([o.head.logits(o.hidden) for o in outputs], dim=1)
    mask = batch.decoder.mask
    expected = whole.head.logits(whole.hidden)
    torch.testing.assert_close(logits[mask], expected[mask], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    "router",
    [HashRouter("bigram", buckets=97), ThorRouter(2), ForcedRouter(), ForcedRouter("zipf")],
)
def test_routers_that_look_at_ids_and_positions(router: RouterConfig, side: str) -> None:
    config = SPARSE["olmoe"]
    assert config.moe is not None
    model = ready(replace(config, moe=replace(config.moe, router=router)))
    batch = batch_for(config, [16, 9, 12], [], side=side)
    with torch.no_grad():
        whole = model(batch).hidden
    pieces = torch.cat([o.hidden for o in in_pieces(model, batch, [8, 9, 10, 14, 16])], dim=1)
    mask = batch.decoder.mask
    torch.testing.assert_close(pieces[mask], whole[mask], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", SPARSE)
def test_counts_of_the_pieces_add_up(name: str) -> None:
    model = ready(SPARSE[name])
    batch = batch_for(SPARSE[name], [16, 9, 12], [11, 16, 3], side="left")
    with torch.no_grad():
        whole = model(batch)
    outputs = in_pieces(model, batch, [8, 9, 16])
    for layer in whole.layers:
        parts = [p for output in outputs for p in output.layers if p.name == layer.name]
        assert len(parts) == (1 if layer.stack == "encoder" else 3)
        for count in ("tokens", "assigned", "first_choice"):
            total = sum(getattr(p.router, count) for p in parts)
            assert torch.equal(total, getattr(layer.router, count)), (layer.name, count)
        assert torch.equal(sum(p.kept for p in parts), layer.kept)


@pytest.mark.parametrize("name", CASES)
def test_a_row_is_the_same_alone_and_among_others(name: str) -> None:
    model = ready(CASES[name])
    batch = batch_for(CASES[name], [16, 9], [11, 16], side="left")
    decoder = part(batch.decoder, LENGTH - 9, LENGTH)
    decoder = replace(
        decoder, **{f: getattr(decoder, f)[1:] for f in ("ids", "mask", "segment", "position")}
    )
    encoder = batch.encoder and replace(
        batch.encoder,
        **{f: getattr(batch.encoder, f)[1:] for f in ("ids", "mask", "segment", "position")},
    )
    with torch.no_grad():
        together = model(batch).hidden[1, LENGTH - 9 :]
        alone = model(batch_of(decoder, encoder)).hidden[0]
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_the_encoder_runs_once() -> None:
    model = ready(T5)
    runs = []
    model.encoder.register_forward_hook(lambda *_: runs.append(1))
    in_pieces(model, batch_for(T5, [6, 6], [4, 7], width=8), [1, 2, 3, 4])
    assert len(runs) == 1


def test_cache_refuses_gradients() -> None:
    model = ready(MODERN)
    with pytest.raises(UserError, match="no gradient"):
        model(batch_for(MODERN, [4], [4]), cache=model.empty_cache(1, LENGTH))


def test_cache_refuses_more_than_it_holds() -> None:
    model = ready(MODERN)
    with torch.no_grad(), pytest.raises(UserError, match="16 tokens do not fit into max_length 15"):
        model(batch_for(MODERN, [4], [4]), cache=model.empty_cache(1, 15))


@pytest.mark.parametrize("where", ["decoder", "encoder"])
def test_cache_refuses_packed_rows(where: str) -> None:
    model = ready(T5)
    batch = batch_for(T5, [4], [4])
    packed = replace(batch, **{where: replace(getattr(batch, where), max_segments=2)})
    with torch.no_grad(), pytest.raises(UserError, match="one segment a row"):
        model(packed, cache=model.empty_cache(1, LENGTH))


def test_encoder_streams_must_fit_the_family() -> None:
    decoder = stream([4], 8)
    with pytest.raises(UserError, match=r"batch\.encoder is missing"):
        ready(T5)(batch_of(decoder))
    with pytest.raises(UserError, match="has no encoder"):
        ready(MODERN)(batch_of(decoder, decoder))


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_nobody_s_statistics_cost_nothing_and_change_nothing(name: str, cached: bool) -> None:
    model = ready(CASES[name])
    batch = batch_for(CASES[name], [16, 9, 12], [11, 16, 3])
    cache = model.empty_cache(3, 16) if cached else None
    with torch.no_grad():
        seen, unseen = (model(batch, cache=cache, observed=observed) for observed in (True, False))
        asked = model(batch, routing=True, observed=False)
    assert torch.equal(seen.hidden, unseen.hidden)
    assert len(seen.layers) == len(model.sparse_layers()) and unseen.layers == ()
    assert asked.routing is not None and len(asked.layers) == len(seen.layers)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", CASES)
def test_a_cache_of_bfloat16_is_float32_on_cpus(name: str, side: str) -> None:
    """What is computed in bfloat16 is kept in more, and equal but for bfloat16's roundings."""
    model = build(CASES[name], dtype=torch.bfloat16)
    model.init_weights(0)
    batch = batch_for(CASES[name], [16, 9, 12], [11, 16, 3], side=side)
    with torch.no_grad():
        whole = model.eval()(batch)
    outputs = in_pieces(model, batch, [8, 9, 10, 14, 16])
    for output in outputs:
        assert output.cache is not None and output.hidden.dtype == torch.bfloat16
        kept = [
            *output.cache.layers,
            *(output.cache.memory or Memory((), batch.decoder.mask)).layers,
        ]
        assert {part.keys.dtype for part in kept} == {torch.float32}
    hidden = torch.cat([output.hidden for output in outputs], dim=1)[batch.decoder.mask]
    expected = whole.hidden[batch.decoder.mask]
    close = (hidden - expected).abs().max(1).values < 0.1 * expected.abs().max()
    assert close.float().mean() > 0.8, "a token may be routed otherwise where two experts are level"
