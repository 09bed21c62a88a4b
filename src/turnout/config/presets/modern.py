"""Mixtral, OLMoE, Qwen3-MoE and DeepSeekMoE: rotary positions, SwiGLU experts, no drops.

Parameters counted here in billions, active in brackets, beside the published:

- Mixtral 8x7B: 46.70 [12.88] (46.7 [12.9]). 8x22B: 140.62 [39.15] (141 [39]); the shape behind
  it, 56 layers of width 6,144, 48 heads with 8 for keys, experts of 16,384, is fixed by that.
- OLMoE 1B-7B: 6.919 [1.282] (6.9 [1.3]).
- Qwen3-30B-A3B: 30.53 [3.35] (30.5 [3.3]); 235B-A22B: 235.09 [22.19] (235 [22]).
- DeepSeekMoE 2B: 1.967 (2.0) with 8,192 vocabulary entries, experts of 853 (a quarter of
  8/3 * 1280) and every layer sparse; 102,400 entries would make 2.21B.
  16B: 16.376 [2.829] (16.4 [2.8]), experts of 1,408, first layer dense of width 10,944.
  145B: 144.62 [22.20] (144.6 [22.2]), experts of 1,408, first layer dense of width 22,528;
  experts of 1,365, an eighth of 8/3 * 4096, would make 140.4B.

OLMoE's optimisation is published; DeepSeekMoE's too, but for the schedule (a tenth of the peak in
two steps near the end; half a cosine here). Mixtral and Qwen3 publish none: they take OLMoE's.
"""

from dataclasses import replace

from turnout.config.attention import AttentionConfig
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.initialisation import NormalInit
from turnout.config.losses import LossConfig
from turnout.config.model import DecoderOnlyConfig
from turnout.config.moe import MoEConfig, Placement
from turnout.config.optimizers import AdamWConfig
from turnout.config.positions import Rotary
from turnout.config.presets.recipes import causal
from turnout.config.routers import CombineWeights, TopKRouter
from turnout.config.schedules import Cosine
from turnout.config.train import TrainConfig


def _dropless(
    num_experts: int,
    k: int,
    weights: CombineWeights,
    d_ff: int,
    *,
    shared: int = 0,
    first: int = 0,
) -> MoEConfig:
    """Every layer from ``first`` on sparse, nothing dropped, experts initialised as the rest."""
    return MoEConfig(
        num_experts,
        router=TopKRouter(k, weights),
        expert=FeedForwardConfig(d_ff, "swiglu"),
        shared_experts=shared,
        init_scale=None,
        placement=Placement(step=1, first=first),
        train_capacity_factor=None,
    )


def mixtral_8x7b() -> DecoderOnlyConfig:
    """46.7B parameters, 12.9B active."""
    return DecoderOnlyConfig(
        vocab_size=32_000,
        d_model=4096,
        num_layers=32,
        attention=AttentionConfig(32, 128, num_kv_heads=8),
        feed_forward=FeedForwardConfig(14_336, "swiglu"),
        moe=_dropless(8, 2, "softmax_of_selected", 14_336),
        positions=Rotary(1e6),
        length=32_768,
        norm_epsilon=1e-5,
    )


def mixtral_8x22b() -> DecoderOnlyConfig:
    """141B parameters, 39B active."""
    return replace(
        mixtral_8x7b(),
        d_model=6144,
        num_layers=56,
        attention=AttentionConfig(48, 128, num_kv_heads=8),
        feed_forward=FeedForwardConfig(16_384, "swiglu"),
        moe=_dropless(8, 2, "softmax_of_selected", 16_384),
    )


def olmoe() -> DecoderOnlyConfig:
    """OLMoE 1B-7B (2409.02060): 6.9B parameters, 1.3B active."""
    return DecoderOnlyConfig(
        vocab_size=50_304,
        d_model=2048,
        num_layers=16,
        attention=AttentionConfig(16, 128, qk_norm="full"),
        feed_forward=FeedForwardConfig(1024, "swiglu"),
        moe=_dropless(64, 8, "raw", 1024),
        initialisation=NormalInit(0.02),
        length=4096,
        norm_epsilon=1e-5,
    )


def qwen3_30b_a3b() -> DecoderOnlyConfig:
    """30.5B parameters, 3.3B active."""
    return DecoderOnlyConfig(
        vocab_size=151_936,
        d_model=2048,
        num_layers=48,
        attention=AttentionConfig(32, 128, num_kv_heads=4, qk_norm="head"),
        feed_forward=FeedForwardConfig(6144, "swiglu"),
        moe=_dropless(128, 8, "renormalised", 768),
        positions=Rotary(1e6),
        length=4096,
    )


def qwen3_235b_a22b() -> DecoderOnlyConfig:
    """235B parameters, 22B active."""
    return replace(
        qwen3_30b_a3b(),
        d_model=4096,
        num_layers=94,
        attention=AttentionConfig(64, 128, num_kv_heads=4, qk_norm="head"),
        feed_forward=FeedForwardConfig(12_288, "swiglu"),
        moe=_dropless(128, 8, "renormalised", 1536),
    )


def deepseek_moe_2b() -> DecoderOnlyConfig:
    """DeepSeekMoE 2B (2401.06066): 1 shared expert, 7 of 63 routed."""
    return DecoderOnlyConfig(
        vocab_size=8192,
        d_model=1280,
        num_layers=9,
        attention=AttentionConfig(10, 128),
        feed_forward=FeedForwardConfig(3413, "swiglu"),
        moe=_dropless(63, 7, "raw", 853, shared=1),
        initialisation=NormalInit(0.006),
        length=2048,
    )


def deepseek_moe_16b() -> DecoderOnlyConfig:
    """DeepSeekMoE 16B: 2 shared experts, 6 of 64 routed, the first layer dense."""
    return DecoderOnlyConfig(
        vocab_size=102_400,
        d_model=2048,
        num_layers=28,
        attention=AttentionConfig(16, 128),
        feed_forward=FeedForwardConfig(10_944, "swiglu"),
        moe=_dropless(64, 6, "raw", 1408, shared=2, first=1),
        initialisation=NormalInit(0.006),
        length=4096,
    )


def deepseek_moe_145b() -> DecoderOnlyConfig:
    """DeepSeekMoE 145B: 4 shared experts, 12 of 128 routed, the first layer dense."""
    return replace(
        deepseek_moe_16b(),
        d_model=4096,
        num_layers=62,
        attention=AttentionConfig(32, 128),
        feed_forward=FeedForwardConfig(22_528, "swiglu"),
        moe=_dropless(128, 12, "raw", 1408, shared=4, first=1),
    )


OLMOE_LOSSES = LossConfig(balance=0.01, router_z=0.001, balance_variant="megablocks", layers="mean")
OLMOE_ADAMW = AdamWConfig(4e-4, weight_decay=0.1)
# 1,024 rows of 4,096 tokens: 5.133T tokens in all, 10.5B of warm-up
OLMOE_COSINE = Cosine(warmup=2503)
OLMOE_TRAIN = TrainConfig(steps=1_223_800, batch_rows=1024, micro_batches=256)
# one balance loss over the whole batch, which needs a counting pass
QWEN3_LOSSES = LossConfig(
    balance=0.001, router_z=0.0, balance_variant="megablocks", layers="mean", scope="batch"
)


def _deepseek_losses(balance: float) -> LossConfig:
    return LossConfig(balance=balance, router_z=0.0, balance_variant="deepseek")


def _deepseek_adamw(learning_rate: float) -> AdamWConfig:
    return AdamWConfig(learning_rate, weight_decay=0.1)


OLMOE_RECIPE = (OLMOE_TRAIN, OLMOE_ADAMW, OLMOE_COSINE)
DEEPSEEK_COSINE = Cosine(warmup=2000)

PRESETS = (
    causal("mixtral_8x7b", "Mixtral 8x7B", mixtral_8x7b, OLMOE_LOSSES, *OLMOE_RECIPE),
    causal("mixtral_8x22b", "Mixtral 8x22B", mixtral_8x22b, OLMOE_LOSSES, *OLMOE_RECIPE),
    causal("olmoe", "OLMoE 1B-7B", olmoe, OLMOE_LOSSES, *OLMOE_RECIPE),
    causal("qwen3_30b_a3b", "Qwen3-30B-A3B", qwen3_30b_a3b, QWEN3_LOSSES, *OLMOE_RECIPE),
    causal("qwen3_235b_a22b", "Qwen3-235B-A22B", qwen3_235b_a22b, QWEN3_LOSSES, *OLMOE_RECIPE),
    causal(
        "deepseek_moe_2b",
        "DeepSeekMoE 2B",
        deepseek_moe_2b,
        _deepseek_losses(0.01),
        # 2,048 rows of 2,048 tokens, 100B tokens
        TrainConfig(steps=24_000, batch_rows=2048, micro_batches=256),
        _deepseek_adamw(1.08e-3),
        DEEPSEEK_COSINE,
    ),
    causal(
        "deepseek_moe_16b",
        "DeepSeekMoE 16B",
        deepseek_moe_16b,
        _deepseek_losses(0.001),
        # 4,608 rows of 4,096 tokens, 2T tokens
        TrainConfig(steps=106_000, batch_rows=4608, micro_batches=1152),
        _deepseek_adamw(4.2e-4),
        DEEPSEEK_COSINE,
    ),
    causal(
        "deepseek_moe_145b",
        "DeepSeekMoE 145B",
        deepseek_moe_145b,
        _deepseek_losses(0.001),
        # 245B tokens
        TrainConfig(steps=13_000, batch_rows=4608, micro_batches=1152),
        _deepseek_adamw(3.0e-4),
        DEEPSEEK_COSINE,
    ),
)
