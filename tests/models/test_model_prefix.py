"""A visible prefix: read in both directions, and what follows it read by nobody before it."""

from dataclasses import replace

import pytest
import torch

from tests.models.cases import CASES, GLAM, LENGTH, MODERN, VOCABULARY, batch_of, part, stream
from turnout import models
from turnout.config.errors import UserError
from turnout.config.model import ModelConfig
from turnout.config.moe import DocumentGroup, MoEConfig
from turnout.config.routers import InputJitter, TopKRouter
from turnout.data.batch import Batch, Stream
from turnout.generate import GenerateOptions, generate
from turnout.models.base import Model

DECODERS = {name: config for name, config in CASES.items() if config.kind == "decoder_only"}
DRAWS = 10


def ready(config: ModelConfig, seed: int = 0) -> Model:
    model = models.build(config)
    model.init_weights(seed)
    return model


def with_prefix(rows: Stream, lengths: list[int]) -> Stream:
    """The first tokens of every row, as many as ``lengths`` says, made visible."""
    visible = rows.mask & (rows.position < torch.tensor(lengths).unsqueeze(1))
    return replace(rows, visible=visible)


def changed(rows: Stream, place: int) -> Stream:
    ids = rows.ids.clone()
    ids[:, place] = 1 + ids[:, place] % (VOCABULARY - 1)
    return replace(rows, ids=ids)


def first_moved(model: Model, one: Stream, other: Stream) -> int:
    """The first place at which hidden states or decisions of two passes differ, or the length."""
    a, b = model(batch_of(one), routing=True), model(batch_of(other), routing=True)
    width = min(one.ids.shape[1], other.ids.shape[1])
    scale = float(a.hidden.abs().max())
    moved = (a.hidden[:, :width] - b.hidden[:, :width]).abs().amax((0, 2)) > 1e-5 * scale
    for first, second in zip(a.routing.layers, b.routing.layers, strict=True):
        moved |= (first.expert[:, :width] != second.expert[:, :width]).any(2).any(0)
    return int(moved.nonzero()[0]) if bool(moved.any()) else width


@pytest.mark.parametrize("name", DECODERS)
def test_a_prefix_of_nothing_is_the_causal_model_to_the_bit(name: str) -> None:
    model = ready(DECODERS[name]).eval()
    rows = stream([16, 9], LENGTH)
    plain = model(batch_of(rows)).hidden
    assert torch.equal(model(batch_of(with_prefix(rows, [0, 0]))).hidden, plain)
    # One token of prefix is visible to all that follow it already.
    assert torch.equal(model(batch_of(with_prefix(rows, [1, 1]))).hidden, plain)


@pytest.mark.parametrize("factor", [None, 0.5, 1.0])
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("family", [MODERN, GLAM], ids=["rotary", "relative bias"])
@torch.no_grad()
def test_the_continuation_moves_nothing_before_it(
    family: ModelConfig, k: int, factor: float | None
) -> None:
    moe = MoEConfig(
        4, TopKRouter(k, "raw", InputJitter(0.1)), train_capacity_factor=factor, min_capacity=1
    )
    model = ready(replace(family, moe=moe)).train()
    for draw in range(DRAWS):
        prefix = 2 + draw % (LENGTH - 4)
        whole = with_prefix(stream([LENGTH] * 2, LENGTH, seed=draw), [prefix] * 2)
        # A row's prefix is known before it is written: what is behind it may change or be cut.
        for place in range(prefix, LENGTH):
            assert first_moved(model, whole, changed(whole, place)) >= place
            shorter = part(whole, 0, place)
            shorter = replace(shorter, visible=whole.visible[:, :place])
            assert first_moved(model, whole, shorter) == place
        # Inside of it the first token reads the last.
        assert first_moved(model, whole, changed(whole, prefix - 1)) == 0


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", DECODERS)
@torch.no_grad()
def test_the_cache_is_the_full_forward(name: str, side: str) -> None:
    model = ready(DECODERS[name]).eval()
    whole = with_prefix(stream([16, 9, 12], LENGTH, side=side), [5, 8, 1])
    expected = model(batch_of(whole)).hidden
    # Padded on the left, the row of 9 ends its prefix of 8 in slot 15; on the right in slot 8.
    cuts = [15, 16] if side == "left" else [8, 9, 14, 16]
    cache, found = model.empty_cache(3, LENGTH), []
    for start, end in zip([0, *cuts], cuts, strict=False):
        piece = part(whole, start, end)
        if start == 0:
            piece = replace(piece, visible=whole.visible[:, :end])
        output = model(batch_of(piece), cache=cache)
        cache = output.cache
        found.append(output.hidden)
    torch.testing.assert_close(
        torch.cat(found, 1)[whole.mask], expected[whole.mask], atol=1e-5, rtol=1e-5
    )


@torch.no_grad()
def test_the_cache_refuses_a_prefix_in_two_passes() -> None:
    model = ready(MODERN)
    whole = with_prefix(stream([16], LENGTH), [10])
    first = replace(part(whole, 0, 4), visible=whole.visible[:, :4])
    cache = model(batch_of(first), cache=model.empty_cache(1, LENGTH)).cache
    second = replace(part(whole, 4, 16), visible=whole.visible[:, 4:])
    with pytest.raises(UserError, match=r"prefix behind the 4 tokens of the cache, .* first pass"):
        model(batch_of(second), cache=cache)


@pytest.mark.parametrize("name", DECODERS)
def test_packed_prefixes_are_prefixes_of_their_own_rows(name: str) -> None:
    lengths, prefixes = [5, 3, 6], [4, 0, 2]
    config = DECODERS[name]
    moe = config.moe and replace(config.moe, group=DocumentGroup(), train_capacity_factor=1.0)
    model = ready(replace(config, moe=moe)).train()
    rows = with_prefix(stream(lengths, 8), prefixes)
    apart = model(batch_of(rows))

    def joined(values: torch.Tensor) -> torch.Tensor:
        return torch.cat([values[i, :n] for i, n in enumerate(lengths)]).unsqueeze(0)

    segment = torch.repeat_interleave(torch.arange(1, 4), torch.tensor(lengths)).unsqueeze(0)
    ids, position, visible = (joined(v) for v in (rows.ids, rows.position, rows.visible))
    packed = Stream(ids, segment > 0, segment, position, 3, visible)
    together = model(batch_of(packed))
    torch.testing.assert_close(together.hidden, joined(apart.hidden), atol=1e-5, rtol=1e-5)
    for one, other in zip(apart.layers, together.layers, strict=True):
        assert torch.equal(one.kept, other.kept)


@pytest.mark.parametrize("name", DECODERS)
@torch.no_grad()
def test_generation_behind_a_visible_prompt(name: str) -> None:
    model = ready(DECODERS[name]).eval()
    prompts = [[3, 14, 15, 9, 2, 6], [5], [35, 8, 9, 7]]
    expected = []
    for prompt in prompts:
        ids = list(prompt)
        for _ in range(6):
            row = torch.tensor([ids])
            real = torch.ones_like(row) > 0
            place = torch.arange(len(ids)).unsqueeze(0)
            rows = Stream(row, real, real.long(), place, 1, place < len(prompt))
            output = model(batch_of(rows))
            ids.append(int(output.head.logits(output.hidden[:, -1]).argmax()))
        expected.append(ids[len(prompt) :])
    assert generate(model, prompts, GenerateOptions(6, visible_prompt=True)) == expected
    hidden: list[Batch] = [batch_of(with_prefix(stream([9], 9), [n])) for n in (0, 9)]
    assert not torch.equal(model(hidden[0]).hidden, model(hidden[1]).hidden)
