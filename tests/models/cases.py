"""Small configurations of every form, and batches for them."""

from dataclasses import replace

import torch

from turnout.config.attention import AttentionConfig
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.initialisation import FanInInit, NormalInit
from turnout.config.latent_attention import LatentAttention
from turnout.config.model import DecoderOnlyConfig, EncoderDecoderConfig, ModelConfig
from turnout.config.moe import MoEConfig, Placement
from turnout.config.positions import RelativeBias, Rotary, Sinusoidal
from turnout.config.rotary_scaling import YarnScaling
from turnout.config.routers import SwitchRouter, TopKRouter
from turnout.data.batch import Batch, Stream

VOCABULARY = 40
LENGTH = 16

SWITCH = MoEConfig(4, SwitchRouter(), train_capacity_factor=None)
TOP2 = MoEConfig(
    4,
    TopKRouter(2),
    expert=FeedForwardConfig(16, "swiglu"),
    shared_experts=1,
    placement=Placement(step=1, first=1),
    train_capacity_factor=None,
)

MODERN = DecoderOnlyConfig(
    vocab_size=VOCABULARY,
    d_model=16,
    num_layers=2,
    attention=AttentionConfig(4, 4, num_kv_heads=2, qk_norm="head"),
    feed_forward=FeedForwardConfig(24, "swiglu"),
    initialisation=NormalInit(0.1),
    length=LENGTH,
)
GLAM = replace(
    MODERN,
    attention=AttentionConfig(4, 4),
    feed_forward=FeedForwardConfig(24, "gelu"),
    positions=RelativeBias(per_layer=True),
    initialisation=FanInInit(),
    tied=True,
)
T5 = EncoderDecoderConfig(
    vocab_size=VOCABULARY,
    d_model=16,
    encoder_layers=2,
    decoder_layers=2,
    attention=AttentionConfig(4, 4, scaled=False),
    feed_forward=FeedForwardConfig(24),
    encoder_length=LENGTH,
    decoder_length=LENGTH,
)

SINES = replace(MODERN, positions=Sinusoidal(), norm="layer")

DENSE: dict[str, ModelConfig] = {"modern": MODERN, "glam": GLAM, "t5": T5, "sines": SINES}
SPARSE: dict[str, ModelConfig] = {
    "olmoe": replace(
        MODERN, moe=TOP2, attention=AttentionConfig(4, 4, num_kv_heads=2, qk_norm="full")
    ),
    "sparse_glam": replace(GLAM, moe=SWITCH),
    "switch": replace(T5, moe=SWITCH),
    "st_moe": replace(
        T5,
        moe=replace(SWITCH, router=TopKRouter(2), extra_ffn=True),
        feed_forward=FeedForwardConfig(24, "geglu", hidden_bias="multiplicative"),
        tied=False,
    ),
    "gpt_oss": replace(
        MODERN,
        moe=replace(
            TOP2,
            router=TopKRouter(2, "softmax_of_selected", bias=True),
            expert=FeedForwardConfig(16, "clamped_swiglu", bias=True),
            shared_experts=0,
        ),
        attention=AttentionConfig(
            4, 4, num_kv_heads=2, bias="all", window=5, window_pattern=(True, False), sinks=True
        ),
        positions=Rotary(100.0, YarnScaling(4.0, 8, truncate=False)),
    ),
    "deepseek": replace(
        MODERN,
        moe=TOP2,
        attention=LatentAttention(4, 8, 4, 2, 6, q_lora_rank=6),
        positions=Rotary(
            100.0, YarnScaling(4.0, 8, mscale=0.7, mscale_all_dim=0.9), interleaved=True
        ),
    ),
    "nllb": replace(
        T5,
        moe=replace(SWITCH, router=TopKRouter(2, bias=True), output_masking=0.25),
        attention=AttentionConfig(4, 4, bias="all"),
        feed_forward=FeedForwardConfig(24, bias=True),
        positions=Sinusoidal(offset=2),
        initialisation=NormalInit(0.1),
        norm="layer",
        scaled_embedding=True,
    ),
    "attention": replace(T5, moe=replace(SWITCH, attention="also")),
    "attention_only": replace(MODERN, moe=replace(SWITCH, router=TopKRouter(2), attention="only")),
}
CASES: dict[str, ModelConfig] = DENSE | SPARSE


def stream(lengths: list[int], width: int, *, side: str = "right", seed: int = 0) -> Stream:
    """Rows of random ids, padded on one side; a row's ids do not depend on the padding."""
    ids = torch.zeros(len(lengths), width, dtype=torch.int64)
    mask = torch.zeros(len(lengths), width, dtype=torch.bool)
    position = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        generator = torch.Generator().manual_seed(1000 * seed + row)
        start = 0 if side == "right" else width - length
        here = slice(start, start + length)
        ids[row, here] = torch.randint(1, VOCABULARY, (length,), generator=generator)
        mask[row, here] = True
        position[row, here] = torch.arange(length)
    return Stream(ids, mask, mask.long(), position)


def batch_of(decoder: Stream, encoder: Stream | None = None) -> Batch:
    row = torch.arange(decoder.ids.shape[0])
    return Batch(decoder, decoder.ids.roll(-1, 1), decoder.mask, row, row, encoder)


def batch_for(
    config: ModelConfig,
    decoder_lengths: list[int],
    encoder_lengths: list[int],
    *,
    side: str = "right",
    width: int = LENGTH,
) -> Batch:
    """A batch of the family; decoder-only models leave the encoder's lengths aside."""
    decoder = stream(decoder_lengths, width, side=side)
    if config.kind == "decoder_only":
        return batch_of(decoder)
    return batch_of(decoder, stream(encoder_lengths, width, side=side, seed=1))


def part(whole: Stream, start: int, end: int) -> Stream:
    """Slots ``start`` to ``end`` of every row."""
    here = slice(start, end)
    return Stream(
        whole.ids[:, here], whole.mask[:, here], whole.segment[:, here], whole.position[:, here]
    )
