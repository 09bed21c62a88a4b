"""Counts of parameters and operations against sums done by hand."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.config.attention import AttentionConfig
from turnout.config.counts import Components
from turnout.config.errors import ConfigError
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.model import DecoderOnlyConfig, EncoderDecoderConfig
from turnout.config.moe import MoEConfig, Placement
from turnout.config.positions import RelativeBias, Rotary, Sinusoidal
from turnout.config.presets.switch import switch_base
from turnout.config.presets.t5 import t5
from turnout.config.routers import (
    ForcedRouter,
    HashRouter,
    HierarchicalRouter,
    LabelRouter,
    MultiGateRouter,
    NoisyTopKRouter,
    NoTokenLeftBehindRouter,
    SentenceRouter,
    SwitchRouter,
    TaskRouter,
    ThorRouter,
    TopKRouter,
)


def pair(**changes: object) -> EncoderDecoderConfig:
    """2 encoder and 4 decoder layers of width 8, 2 heads of 4, hidden width 16, 10 words."""
    base = EncoderDecoderConfig(
        vocab_size=10,
        d_model=8,
        encoder_layers=2,
        decoder_layers=4,
        attention=AttentionConfig(2, 4),
        feed_forward=FeedForwardConfig(16),
    )
    return replace(base, **changes)


def single(**changes: object) -> DecoderOnlyConfig:
    """3 layers of width 8, 4 query and 2 key heads of 4, SwiGLU of width 16, 10 words."""
    base = DecoderOnlyConfig(
        vocab_size=10,
        d_model=8,
        num_layers=3,
        attention=AttentionConfig(4, 4, num_kv_heads=2),
        feed_forward=FeedForwardConfig(16, "swiglu"),
    )
    return replace(base, **changes)


def test_encoder_decoder_by_hand() -> None:
    # embedding 10 * 8 = 80, tied
    # attention 4 * 8 * 8 = 256: 2 in the encoder, 2 * 4 in the decoder: 10 * 256 = 2560
    # norms of 8: encoder 2 * 2 + 1 = 5, decoder 3 * 4 + 1 = 13: 18 * 8 = 144
    # feed-forward 2 * 8 * 16 = 256, 6 layers: 1536
    # two tables of 32 buckets and 2 heads: 128
    count = pair().param_count()
    assert count.components == Components(
        embedding=80, attention=2560, norms=144, feed_forward=1536, positions=128
    )
    assert count.total == count.active == 80 + 2560 + 144 + 1536 + 128
    assert pair(tied=False).num_params() == count.total + 80
    # a table a layer: 6 * 64 instead of 2 * 64
    by_layer = pair(positions=RelativeBias(per_layer=True))
    assert by_layer.num_params() == count.total + 4 * 64


def test_biased_norms_and_sinusoids_by_hand() -> None:
    # As above: 18 norms of 8, now with 8 biases each; no table of positions; ST-MoE's extra network
    # in the 3 sparse layers brings a norm of 16 each. Scaling embeddings holds nothing.
    plain = pair().num_params()
    nllb = {"norm": "layer", "positions": Sinusoidal(offset=2), "scaled_embedding": True}
    assert pair(**nllb).num_params() == plain + 18 * 8 - 128
    assert pair(**nllb).param_count().components.positions == 0
    moe = MoEConfig(4, extra_ffn=True)
    apart = pair(**nllb, moe=moe).num_params() - pair(moe=moe).num_params()
    assert apart == 18 * 8 - 128 + 3 * 8
    # Of one stack of 3 layers 7 norms.
    assert single(norm="layer").num_params() == single().num_params() + 7 * 8
    assert single(norm="layer", positions=Sinusoidal()).flops(2, 5) == single().flops(2, 5)


@pytest.mark.parametrize("family", [pair, single])
def test_sinusoids_need_two_frequencies(family) -> None:
    with pytest.raises(ConfigError, match=r"model\.d_model = 3: must be at least 4 with sinus"):
        family(d_model=3, positions=Sinusoidal())


@pytest.mark.parametrize("fields", [{"offset": -1}, {"theta": 1.0}, {"theta": float("inf")}])
def test_sinusoids_that_cannot_be(fields) -> None:
    with pytest.raises(ConfigError, match=r"positions\.(offset|theta)"):
        Sinusoidal(**fields)


def test_decoder_only_by_hand() -> None:
    # embedding and head 80 each; q and o 8 * 16 each, k and v 8 * 8 each: 384, 3 layers 1152
    # norms (2 * 3 + 1) * 8 = 56; feed-forward 3 * 8 * 16 = 384, 3 layers 1152
    count = single().param_count().components
    assert count == Components(embedding=80, head=80, attention=1152, norms=56, feed_forward=1152)
    # QK-norm over a head: 2 * 4 a layer; over the projection: 16 + 8 a layer
    for form, extra in (("head", 8), ("full", 24)):
        attention = AttentionConfig(4, 4, num_kv_heads=2, qk_norm=form)
        assert single(attention=attention).num_params() == count.total + 3 * extra
    # biases of 16 + 8 + 8 a layer, and 8 of the output
    for form, extra in (("qkv", 32), ("all", 40)):
        attention = AttentionConfig(4, 4, num_kv_heads=2, bias=form)
        assert single(attention=attention).num_params() == count.total + 3 * extra
        assert single(attention=attention).flops(2, 5) == single().flops(2, 5)
    # 4 sinks a layer, and for each of the 2 * 5 queries one more key: 4 * 16 operations
    sinks = single(attention=AttentionConfig(4, 4, num_kv_heads=2, sinks=True))
    assert sinks.num_params() == count.total + 3 * 4
    assert sinks.flops(2, 5) == single().flops(2, 5) + 3 * 10 * 64


def test_sparse_layers_by_hand() -> None:
    # Layers 1 of 2 in the encoder, 1 and 3 of 4 in the decoder: 3 sparse, 3 dense.
    moe = MoEConfig(
        4,
        router=TopKRouter(2),
        expert=FeedForwardConfig(6, "geglu", bias=True),
        shared_experts=2,
        extra_ffn=True,
    )
    count = pair(moe=moe).param_count()
    # an expert: 3 * 8 * 6 = 144, biases 6 + 6 inside and 8 at the end: 164
    # two shared ones as one network of width 12: 3 * 8 * 12 = 288, biases 12 + 12 + 8: 320
    # router 8 * 4 = 32; extra network 256 and its norm 8: 264
    assert count.components.experts == 3 * 4 * 164
    assert count.components.shared_experts == 3 * 320
    assert count.components.router == 3 * 32
    assert count.components.extra_ffn == 3 * 264
    assert count.components.feed_forward == 3 * 256
    assert count.active_components.experts == 3 * 2 * 164
    assert count.total - count.active == 3 * 2 * 164


@pytest.mark.parametrize(
    ("router", "router_params", "active"),
    # noisy top-k has a second matrix; of four candidates no-token-left-behind uses one; tables
    # and labels hold nothing; a row of logits, or a matrix, for each of 5 tasks; two levels of 2
    # groups and 4 experts, with noise
    [
        (TopKRouter(3, bias=True), 8 * 4 + 4, 3),
        (NoisyTopKRouter(3), 2 * 8 * 4, 3),
        (NoTokenLeftBehindRouter(4), 8 * 4, 1),
        (HashRouter(), 0, 1),
        (LabelRouter(3), 0, 1),
        (ThorRouter(2), 0, 2),
        (ForcedRouter(k=3), 0, 3),
        (TaskRouter(5), 5 * 4, 2),
        (SentenceRouter(), 8 * 4, 2),
        (MultiGateRouter(5), 5 * 8 * 4, 2),
        (HierarchicalRouter(2), 2 * 8 * (2 + 4), 4),
        (SwitchRouter(bias=True), 8 * 4 + 4, 1),
        (TopKRouter(2, bias=True), 8 * 4 + 4, 2),
    ],
)
def test_routers_count_what_they_hold(router: object, router_params: int, active: int) -> None:
    count = single(moe=MoEConfig(4, router=router, placement=Placement(3))).param_count()
    assert count.components.router == router_params
    assert count.active_components.experts == active * 384


def test_t5_base_by_hand() -> None:
    # embedding 32128 * 768 = 24,674,304
    # attention 4 * 768 * 768 = 2,359,296, 12 + 24 of them: 84,934,656
    # feed-forward 2 * 768 * 3072 = 4,718,592, 24: 113,246,208
    # norms (25 + 37) * 768 = 47,616; tables 2 * 32 * 12 = 768
    assert t5("base").num_params() == 24_674_304 + 84_934_656 + 113_246_208 + 47_616 + 768


def test_switch_base_by_hand() -> None:
    # 6 + 6 sparse layers, each with 127 more experts of 4,718,592 and a router of 768 * 128
    sparse = switch_base(128)
    more = 12 * (127 * 4_718_592 + 768 * 128)
    assert sparse.num_params() == t5("base").num_params() + more
    assert sparse.num_active_params() == t5("base").num_params() + 12 * 768 * 128


def test_flops_of_one_stack_by_hand() -> None:
    # 2 rows of 5: T = 10. A layer: projections 2 * 10 * 384 = 7680; scores and values
    # 2 * (2 * 2 * 5 * 5 * 16) = 3200; feed-forward 2 * 10 * 384 = 7680. Head 2 * 10 * 8 * 10.
    assert single().flops(2, 5) == 3 * (7680 + 3200 + 7680) + 1600


def test_flops_of_two_stacks_by_hand() -> None:
    # 1 row, 3 in and 2 out. Encoder layer: 2 * 3 * 256 + 4 * 9 * 8 + 2 * 3 * 256 = 3360.
    # Decoder layer: self 2 * 2 * 256 + 4 * 4 * 8 = 1152; feed-forward 2 * 2 * 256 = 1024;
    # cross: q and o 4 * 2 * 8 * 8 = 512, k and v 4 * 3 * 8 * 8 = 768, 4 * 2 * 3 * 8 = 192.
    # Head 2 * 2 * 8 * 10 = 320.
    assert pair().flops(1, 3, 2) == 2 * 3360 + 4 * (1152 + 1024 + 1472) + 320


def test_flops_of_a_sparse_layer_by_hand() -> None:
    moe = MoEConfig(
        4,
        router=TopKRouter(2),
        expert=FeedForwardConfig(6, "geglu"),
        shared_experts=1,
        extra_ffn=True,
        placement=Placement(3),
    )
    # 7 tokens. Router 2 * 7 * 32 = 448; 14 rows of 3 * 8 * 6: 2 * 14 * 144 = 4032; shared
    # 2 * 7 * 144 = 2016; extra 2 * 7 * 384 = 5376. In place of 2 * 7 * 384 = 5376.
    dense = single().flops(1, 7)
    assert single(moe=moe).flops(1, 7) == dense - 5376 + 448 + 4032 + 2016 + 5376


@pytest.mark.parametrize(
    ("router", "routing"),
    # 7 tokens of width 8, 4 experts: a task's own matrix is 2 * 7 * 8 * 4, a table nothing
    [(MultiGateRouter(5, k=1), 448), (HashRouter(), 0), (TaskRouter(5, k=1), 0)],
)
def test_flops_of_routers_that_do_not_multiply_all_they_hold(router: object, routing: int) -> None:
    moe = MoEConfig(4, router=router, placement=Placement(3))
    assert single(moe=moe).flops(1, 7) == single().flops(1, 7) + routing


@given(experts=st.integers(1, 64), layers=st.integers(4, 12), step=st.integers(1, 4))
def test_top_1_moves_no_flops_but_the_routers(experts: int, layers: int, step: int) -> None:
    moe = MoEConfig(experts, placement=Placement(step))
    sparse = single(num_layers=layers, moe=moe)
    count = len(moe.placement.sparse_layers(layers))
    assert sparse.flops(3, 4) == sparse.dense_twin().flops(3, 4) + count * 2 * 12 * 8 * experts
    assert sparse.num_active_params() == sparse.dense_twin().num_params() + count * 8 * experts


def test_rotary_holds_nothing() -> None:
    assert Rotary().num_params(12, 8) == 0
