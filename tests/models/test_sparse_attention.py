"""Experts that make the projections of self-attention (Switch Transformers, figure 10)."""

import math
from dataclasses import replace

import pytest
import torch

from tests.models.cases import CASES, LENGTH, MODERN, T5, batch_for
from tests.moe.cases import relative_error
from tests.objectives import cases as steps
from turnout import models
from turnout.config import io
from turnout.config.attention import AttentionConfig
from turnout.config.errors import ConfigError
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.moe import MoEConfig, Placement, RowsGroup
from turnout.config.presets import run as preset
from turnout.config.routers import ExpertChoiceRouter, InputJitter, SwitchRouter, TopKRouter
from turnout.models.block_context import StackContext
from turnout.moe.context import RoutingContext

ONLY = MoEConfig(
    4,
    SwitchRouter(),
    attention="only",
    placement=Placement(step=1),
    train_capacity_factor=None,
    init_scale=1.0,
)
SHAPES = {
    "t5": replace(T5, moe=ONLY),
    "grouped": replace(
        MODERN, attention=AttentionConfig(4, 4, num_kv_heads=2, qk_norm="full"), moe=ONLY
    ),
}


def built(config):
    model = models.build(config)
    model.init_weights(5)
    return model


def as_dense(weights):
    """Weights of one expert under the names of dense projections."""
    found = {}
    for name, weight in weights.items():
        if name.endswith("query.experts.weight"):
            found[name.replace("experts.weight", "weight")] = weight[0].T
        elif name.endswith("key_value.experts.weight"):
            for part in ("key", "value"):
                found[name.replace("key_value.experts.weight", f"{part}.weight")] = weight[0].T
        elif ".router." not in name:
            found[name] = weight
    return found


@pytest.mark.parametrize("name", SHAPES)
def test_one_expert_is_a_dense_layer_whose_keys_are_its_values(name):
    """The softmax over one logit is 1, so the layer is its expert."""
    config = replace(SHAPES[name], moe=replace(ONLY, num_experts=1))
    sparse, dense = built(config), built(config.dense_twin())
    dense.load_state_dict(as_dense(sparse.state_dict()))
    batch = batch_for(config, [12, 7], [11, 16])
    real = batch.decoder.mask.unsqueeze(-1)
    outputs = [torch.where(real, model(batch).hidden, 0.0) for model in (sparse, dense)]
    assert relative_error(outputs[0].detach(), outputs[1].detach()) <= 1e-5
    for output in outputs:
        (output * torch.arange(output.shape[-1])).sum().backward()
    found, plain = (
        model.stacks()[-1].blocks[0].self_attention.attention for model in (sparse, dense)
    )
    both = plain.key.weight.grad + plain.value.weight.grad
    assert relative_error(found.key_value.experts.weight.grad[0].T, both) <= 1e-4
    query = plain.query.weight.grad
    assert relative_error(found.query.experts.weight.grad[0].T, query) <= 1e-4


def by_hand(sublayer, x, causal, served):
    """One row token by token in float64, each projection by the router's best expert; of the
    queries the first ``served`` of an expert alone."""
    attention = sublayer.attention
    normed = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt()

    def projected(layer):
        weight, expert = torch.softmax(normed @ layer.router.weight.double().T, -1).max(-1)
        matrices = layer.experts.weight.double()
        rows, used = [], [0] * len(matrices)
        for i, number in enumerate(expert.tolist()):
            used[number] += 1
            kept = used[number] <= served
            rows.append(weight[i] * (normed[i] @ matrices[number]) * kept)
        return torch.stack(rows)

    q, kv = projected(attention.query), projected(attention.key_value)
    heads, width = attention.config.num_heads, attention.config.head_dim
    out = torch.zeros(len(x), heads * width, dtype=torch.float64)
    for i in range(len(x)):
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            keys = [j for j in range(len(x)) if j <= i or not causal]
            powers = [math.exp(float(q[i, part] @ kv[j, part])) for j in keys]
            for j, power in zip(keys, powers, strict=True):
                out[i, part] += power / sum(powers) * kv[j, part]
    return x.double() + out @ attention.out.weight.double().T


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("factor", [None, 0.5], ids=["dropless", "capacity"])
def test_it_is_the_plain_loop(factor, causal):
    # A row has LENGTH = 16 tokens and there are 4 experts: 0.5 leaves 0.5 * 16 / 4 = 2 slots each.
    moe = replace(ONLY, train_capacity_factor=factor, min_capacity=1)
    sublayer = built(replace(T5, moe=moe)).stacks()[int(causal)].blocks[0].self_attention
    x = torch.randn(1, LENGTH, 16, generator=torch.Generator().manual_seed(1))
    allowed = torch.ones(1, 1, LENGTH, LENGTH, dtype=torch.bool)
    allowed = allowed.tril() if causal else allowed
    routing = RoutingContext.build(torch.ones(1, LENGTH, dtype=torch.bool))
    output = sublayer(x, StackContext(routing, allowed, allowed), None)
    served = LENGTH if factor is None else 2
    dropped = sum(int((decision.expert < 0).sum()) for decision in output.decisions)
    assert (dropped > 0) == (factor is not None)
    with torch.no_grad():
        expected = by_hand(sublayer, x[0], causal, served)
    assert relative_error(output.hidden[0].detach(), expected) <= 1e-5


def test_reports_stand_in_the_order_of_the_names():
    model = built(CASES["attention"])
    output = model(batch_for(model.config, [9, 4], [5, 8]), routing=True)
    names = ["attention.query", "attention.key_value", "moe"]
    expected = [f"{stack}.1.{name}" for stack in ("encoder", "decoder") for name in names]
    assert [stats.name for stats in output.layers] == expected == list(model.sparse_layers())
    again = model(batch_for(model.config, [9, 4], [5, 8]), replay=output.routing)
    assert torch.equal(again.hidden, output.hidden)


def test_no_two_sparse_layers_share_their_noise():
    model = built(replace(T5, moe=replace(ONLY, attention="also")))
    numbers = [layer.router.layer for layer in model.sparse_layers().values()]
    assert len(set(numbers)) == len(numbers) == 12


@pytest.mark.parametrize("capacity", [None, 1.0])
@pytest.mark.parametrize("family", [steps.MODERN, steps.T5], ids=["decoder", "both"])
def test_cuts_padding_and_recomputation_change_nothing(family, capacity):
    both = family is steps.T5
    moe = steps.sparse(SwitchRouter(InputJitter(0.1)), capacity, RowsGroup())
    moe = replace(moe, attention="also")
    model = steps.build(moe, family)
    expected = steps.run(model, steps.ALL_ON, steps.cut(8, encoder=both))
    recomputed = steps.build(moe, family, recompute=True)
    variants = [
        (model, steps.cut(2, encoder=both)),
        (model, steps.cut(4, width=17, encoder=both)),
        (model, steps.cut(8, width=15, left=True, encoder=both)),
        (recomputed, steps.cut(1, encoder=both)),
    ]
    for variant, batches in variants:
        found = steps.run(variant, steps.ALL_ON, batches)
        assert found.kept == expected.kept
        assert found.total == pytest.approx(expected.total, rel=1e-5)
        for name, gradient in expected.gradients.items():
            assert relative_error(found.gradients[name], gradient) <= 1e-5, name


def test_parameters_and_arithmetic_by_hand():
    """Width 16, 4 heads of 4 (2 of keys): an expert has 16 * 16 for queries, 16 * 8 for keys and
    values; the output 16 * 16 and the norms 16 + 8 stay. 2 layers, 4 experts, 2 routers each."""
    config = SHAPES["grouped"]
    counts = config.param_count()
    assert counts.components.experts == 2 * 4 * (256 + 128)
    assert counts.active_components.experts == 2 * (256 + 128)
    assert counts.components.router == 2 * 2 * 16 * 4
    assert counts.components.attention == 2 * (256 + 24)
    assert counts.components.feed_forward == 2 * config.feed_forward.num_params(16)
    # Against the dense twin a token saves one key-value product and pays two routers, a layer.
    saved = config.dense_twin().flops(1, 10) - config.flops(1, 10)
    assert saved == 2 * 10 * 2 * (128 - 2 * 64)


def test_queries_start_as_small_as_unscaled_logits_want():
    """T5: std (d_model * head_dim)^-0.5, times sqrt(init_scale)."""
    wide = replace(
        T5,
        d_model=64,
        attention=AttentionConfig(4, 16, scaled=False),
        moe=replace(ONLY, init_scale=0.25),
    )
    attention = built(wide).requires_grad_(False).stacks()[0].blocks[0].self_attention.attention
    query, key_value = attention.query.experts.weight, attention.key_value.experts.weight
    assert float(query.std()) == pytest.approx((0.25 / (64 * 16)) ** 0.5, rel=0.03)
    assert float(key_value.std()) == pytest.approx((0.25 / 64) ** 0.5, rel=0.03)
    assert float(attention.out.weight.std()) == pytest.approx(64**-0.5, rel=0.03)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("shared_experts", 1),
        ("extra_ffn", True),
        ("expert_dropout", 0.1),
        ("expert", FeedForwardConfig(8)),
    ],
)
def test_nothing_is_silently_off(field, value):
    with pytest.raises(ConfigError, match=rf"moe\.{field} = .*: must be left out .*'also'"):
        replace(ONLY, **{field: value})


def test_projecting_experts_with_sinks_have_the_parameters_they_say():
    attention = AttentionConfig(4, 4, sinks=True)
    config = replace(T5, attention=attention, moe=ONLY)
    weights = built(config).state_dict()
    assert sum(w.numel() for w in weights.values()) == config.num_params()
    sinks = [w for n, w in weights.items() if n.endswith("sinks")]
    assert len(sinks) == 6 and all(torch.equal(w, torch.zeros(4)) for w in sinks)


def test_projecting_experts_have_no_biases():
    biased = AttentionConfig(4, 4, bias="qkv")
    with pytest.raises(ConfigError) as refused:
        replace(MODERN, attention=biased, moe=ONLY)
    assert str(refused.value) == (
        "model.attention.bias = 'qkv': must be none where experts make attention's projections; "
        "or set model.moe.attention to none"
    )
    with pytest.raises(ConfigError, match=r"model\.attention\.bias"):
        replace(T5, attention=biased, moe=ONLY)


def test_a_decoder_refuses_projections_that_read_ahead():
    moe = replace(ONLY, router=ExpertChoiceRouter(1))
    with pytest.raises(ConfigError, match="a decoder"):
        models.build(replace(MODERN, moe=moe), device="meta")
    models.build(replace(T5, moe=replace(moe, decoder_router=TopKRouter(2))), device="meta")


def test_a_word_on_the_command_line():
    run = preset("switch_tiny")
    assert run.model.moe.attention == "none"
    also = io.override(run, {"model.moe.attention": "also"})
    assert also.model.moe.attention == "also" and io.parse_toml(io.dump_toml(also)) == also
    with pytest.raises(
        ConfigError, match=r"moe\.attention = 'both': must be one of none, also, only"
    ):
        io.override(run, {"model.moe.attention": "both"})
