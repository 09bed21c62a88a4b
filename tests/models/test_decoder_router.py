"""Experts that choose in the encoder, tokens in the decoder (``moe.decoder_router``)."""

from dataclasses import replace

import pytest
import torch

from tests.models.cases import MODERN, T5, batch_for, batch_of, part
from turnout.config.errors import ConfigError, UserError
from turnout.config.moe import DocumentGroup, MoEConfig, RowsGroup
from turnout.config.routers import (
    BaseRouter,
    ExpertChoiceRouter,
    NoisyTopKRouter,
    SinkhornRouter,
    TopKRouter,
)
from turnout.generate import GenerateOptions, generate
from turnout.models import build

PROMPTS = [[3, 14, 15, 9, 2, 6], [5], [35, 8, 9, 7]]
COUPLED = [ExpertChoiceRouter(), ExpertChoiceRouter(1, cap=2), BaseRouter(), SinkhornRouter()]
MIXED = MoEConfig(4, ExpertChoiceRouter(), decoder_router=TopKRouter(2), train_capacity_factor=None)


def ready(moe=MIXED):
    model = build(replace(T5, moe=moe))
    model.init_weights(0)
    return model


@pytest.mark.parametrize("router", COUPLED, ids=lambda router: router.kind)
@pytest.mark.parametrize("family", [MODERN, T5], ids=lambda family: family.kind)
def test_a_decoder_refuses_it_in_one_line(family, router):
    with pytest.raises(ConfigError, match=r"^moe.router.kind = .*moe.decoder_router") as error:
        build(replace(family, moe=MoEConfig(4, router, train_capacity_factor=None)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("router", COUPLED, ids=lambda router: router.kind)
@pytest.mark.parametrize("other", [TopKRouter(2), NoisyTopKRouter(2)], ids=lambda r: r.kind)
def test_each_stack_has_its_router_and_the_parameters_it_says(router, other):
    config = replace(T5, moe=replace(MIXED, router=router, decoder_router=other))
    model = build(config)
    model.init_weights(0)
    assert sum(p.numel() for p in model.parameters()) == config.num_params()
    # a router of 4 x 16 in each stack, and noisy top-k's second matrix in the decoder's
    second = 64 if isinstance(other, NoisyTopKRouter) else 0
    assert config.param_count().components.router == 128 + second
    encoder, decoder = model.sparse_layers().values()
    assert (encoder.router.couples, decoder.router.couples) == ("group", "none")
    assert decoder.causal and not encoder.causal
    output = model.train()(batch_for(config, [16, 9], [11, 16]), routing=True)
    output.hidden.square().sum().backward()
    assert all(bool(layer.router.weight.grad.any()) for layer in (encoder, decoder))
    assert output.layers[0].router.tokens.tolist() == [11, 16]


def test_generation_reads_the_encoder_s_groups_whole():
    model = ready().eval()
    together = generate(model, PROMPTS, GenerateOptions(6))
    assert together == [generate(model, [prompt], GenerateOptions(6))[0] for prompt in PROMPTS]
    # as without a cache, the whole of both rows read again for every token
    for prompt, expected in zip(PROMPTS, together, strict=True):
        written: list[int] = []
        for _ in range(6):
            batch = batch_for(model.config, [1 + len(written)], [len(prompt)])
            ids = torch.tensor([0, *written])
            batch.decoder.ids[0, : len(ids)] = ids
            batch.encoder.ids[0, : len(prompt)] = torch.tensor(prompt)
            with torch.no_grad():
                output = model(batch)
            written.append(int(output.head.logits(output.hidden[:, len(ids) - 1]).argmax()))
        assert written == expected


def test_a_document_fills_its_row_in_generation():
    rows, documents = (ready(replace(MIXED, group=g)) for g in (RowsGroup(), DocumentGroup()))
    options = GenerateOptions(4)
    assert generate(documents, PROMPTS, options) == generate(rows, PROMPTS, options)


def test_generation_refuses_rows_that_belong_together():
    model = ready(replace(MIXED, group=RowsGroup(2)))
    with pytest.raises(UserError, match=r"moe.router.kind = 'expert_choice'") as error:
        generate(model, PROMPTS, GenerateOptions(4))
    assert "\n" not in str(error.value)


def test_a_cache_refuses_expert_choice_in_a_decoder():
    moe = MoEConfig(4, ExpertChoiceRouter(), train_capacity_factor=None, allow_future_routing=True)
    model = build(replace(MODERN, moe=moe))
    model.init_weights(0)
    batch = batch_for(model.config, [16, 16], [])
    with torch.no_grad():
        model.eval()(batch)
        with pytest.raises(UserError, match=r"moe.router.kind = 'expert_choice'"):
            model(batch_of(part(batch.decoder, 0, 4)), cache=model.empty_cache(2, 16))
