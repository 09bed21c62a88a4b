"""Latent attention in a configuration: counts by hand and as published, refusals, its kind."""

from dataclasses import replace

import pytest

from turnout.config.attention import AttentionConfig
from turnout.config.errors import ConfigError
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.io import from_dict, override, to_dict
from turnout.config.latent_attention import LatentAttention
from turnout.config.model import DecoderOnlyConfig, EncoderDecoderConfig
from turnout.config.moe import MoEConfig, Placement
from turnout.config.positions import RelativeBias, Rotary
from turnout.config.presets import run
from turnout.config.rotary_scaling import YarnScaling
from turnout.config.routers import TopKRouter

SMALL = DecoderOnlyConfig(
    vocab_size=10,
    d_model=8,
    num_layers=3,
    attention=LatentAttention(2, 6, 4, 2, 3, q_lora_rank=5),
    feed_forward=FeedForwardConfig(16),
)


def test_parameters_by_hand() -> None:
    # Queries 8 * 5 + 5 * 2 * 6 = 100 and their norm 5; latent and rotated part 8 * (6 + 2) = 64,
    # their norm 6; keys and values 6 * 2 * (4 + 3) = 84; output 2 * 3 * 8 = 48.
    assert SMALL.param_count().components.attention == 3 * (100 + 5 + 64 + 6 + 84 + 48)
    # Straight queries: 8 * 2 * 6 = 96 in place of 100 and the norm.
    straight = replace(SMALL, attention=LatentAttention(2, 6, 4, 2, 3))
    assert straight.num_params() == SMALL.num_params() - 3 * (105 - 96)


def test_flops_by_hand() -> None:
    # 2 rows of 5: 10 tokens. A layer: 2 * 10 * (100 + 64 + 84 + 48) = 5920; scores 2 rows of
    # 2 * 5 * 5 * 2 * 6 = 600, values of 2 * 5 * 5 * 2 * 3 = 300; feed-forward 2 * 10 * 256 = 5120.
    # Head 1600.
    assert SMALL.flops(2, 5) == 3 * (5920 + 2 * 900 + 5120) + 1600


def published(
    d_model: int,
    layers: int,
    dense: int,
    d_ff: int,
    experts: tuple[int, int, int, int],
    latent: LatentAttention,
    vocabulary: int,
) -> DecoderOnlyConfig:
    """``experts``: how many, chosen, shared, and their width."""
    count, k, shared, width = experts
    return DecoderOnlyConfig(
        vocab_size=vocabulary,
        d_model=d_model,
        num_layers=layers,
        attention=latent,
        feed_forward=FeedForwardConfig(d_ff, "swiglu"),
        moe=MoEConfig(
            count,
            TopKRouter(k, "raw"),
            expert=FeedForwardConfig(width, "swiglu"),
            shared_experts=shared,
            placement=Placement(step=1, first=dense),
            train_capacity_factor=None,
        ),
    )


@pytest.mark.parametrize(
    ("config", "billions", "active"),
    [
        # 2405.04434: 15.7B of which 2.4B are active, 236B and 21B; 2412.19437: 671B and 37B.
        (
            published(
                2048,
                27,
                1,
                10_944,
                (64, 6, 2, 1408),
                LatentAttention(16, 512, 128, 64, 128),
                102_400,
            ),
            15.7,
            2.4,
        ),
        (
            published(
                5120,
                60,
                1,
                12_288,
                (160, 6, 2, 1536),
                LatentAttention(128, 512, 128, 64, 128, q_lora_rank=1536),
                102_400,
            ),
            236,
            21,
        ),
        (
            published(
                7168,
                61,
                3,
                18_432,
                (256, 8, 1, 2048),
                LatentAttention(128, 512, 128, 64, 128, q_lora_rank=1536),
                129_280,
            ),
            671,
            37,
        ),
    ],
    ids=["v2_lite", "v2", "v3"],
)
def test_published_parameters(config: DecoderOnlyConfig, billions: float, active: float) -> None:
    assert config.num_params() / 1e9 == pytest.approx(billions, rel=0.002)
    # The published active parameters leave out the embedding, of which a token reads one row.
    used = config.num_active_params() - config.vocab_size * config.d_model
    assert used / 1e9 == pytest.approx(active, rel=0.025)


def test_a_table_without_a_kind_is_the_attention_there_was_before() -> None:
    table = to_dict(replace(SMALL, attention=AttentionConfig(2, 4)))
    assert table["attention"].pop("kind") == "grouped_query"
    assert from_dict(DecoderOnlyConfig, table).attention == AttentionConfig(2, 4)
    latent = to_dict(SMALL)
    assert latent["attention"]["kind"] == "latent"
    assert from_dict(DecoderOnlyConfig, latent) == SMALL
    model = run("t5_small").model
    table = to_dict(model)
    assert table["attention"].pop("kind") == "grouped_query"
    assert from_dict(EncoderDecoderConfig, table) == model


def test_from_the_command_line() -> None:
    options = {
        "attention": "latent",
        "attention.num_heads": "2",
        "attention.kv_lora_rank": "6",
        "attention.qk_nope_head_dim": "4",
        "attention.qk_rope_head_dim": "2",
        "attention.v_head_dim": "3",
        "attention.q_lora_rank": "5",
    }
    plain = replace(SMALL, attention=AttentionConfig(2, 4))
    assert override(plain, options) == SMALL
    assert override(plain, {"attention.head_dim": "8"}).attention == AttentionConfig(2, 8)


LATENT = SMALL.attention
ALONE = YarnScaling(2.0, 8, mscale_all_dim=1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"positions": RelativeBias()},
            "model.positions.kind = 'relative_bias': must be rotary with latent attention, whose "
            "keys have a part to be rotated",
        ),
        (
            {"positions": Rotary(share=0.5), "attention": LatentAttention(2, 6, 4, 4, 3)},
            "model.positions.share = 0.5: must be 1 with latent attention; "
            "attention.qk_rope_head_dim says what is rotated",
        ),
        (
            {"moe": MoEConfig(4, attention="only")},
            "model.attention.kind = 'latent': must be grouped_query where experts make attention's "
            "projections; or set model.moe.attention to none",
        ),
        (
            {"positions": Rotary(scaling=ALONE), "attention": AttentionConfig(2, 4)},
            "model.positions.scaling.mscale_all_dim = 1.0: must be left out without mscale; alone "
            "it scales the logits of latent attention, which this model has not",
        ),
    ],
)
def test_refusals(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        replace(SMALL, **changes)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("num_heads", 0, "at least 1"),
        ("kv_lora_rank", 0, "at least 1"),
        ("q_lora_rank", 0, "at least 1, or none"),
        ("qk_rope_head_dim", 3, "even, at least 2"),
    ],
)
def test_fields(field: str, value: int, allowed: str) -> None:
    with pytest.raises(ConfigError) as refused:
        replace(LATENT, **{field: value})
    assert str(refused.value) == f"attention.{field} = {value}: must be {allowed}"


def test_yarn_scales_the_logits_of_latent_attention() -> None:
    assert replace(SMALL, positions=Rotary(scaling=ALONE)).positions.logit_scale == pytest.approx(
        1.0693147**2  # 0.1 ln 2 + 1
    )
    assert Rotary().logit_scale == 1.0
