"""GLaM (2112.06905): decoder-only, every other layer sparse, top-2, relative bias a layer.

The counts say three things the table does not. Dense layers are gated (three matrices), experts
are not (two). The embedding is tied. And only 64B/64E has the 256,000 entries of the text: its
1,161.8B parameters, 96.61B active, are those published (1.2T, 96.6B). The counts of the smaller
models fit 32,000 entries and nothing near 256,000 (billions, active in brackets, then published):

- 1.7B: 1.676 (1.700); 64E: 26.84 [1.879] (27 [1.879]); 128E: 52.6 [1.881] (53 [1.881]);
  256E: 104.2 [1.884] (105 [1.886])
- 8B: 8.721 (8.7); 64E: 142.9 [9.799] (143 [9.8])
- 137B: 137.7 (137)

With 256,000 entries 1.7B/64E would have 2.338B active parameters, and 8B/64E 10.717B.

Left out: 0.1B counts 0.138B where 130M is published (6% off) and 0.1B/64E 1.908B (1.9B) but
0.152B active (145M, 5% off); 1.7B/32E counts 13.96B where 20B is published, although its active
1.878B fits, and 64 experts of that size make the published 27B.

The capacity is GShard's, ``2 * tokens / experts`` for two choices: a factor of 1 here. Ordinary
second-choice policy, threshold and rounding are those of GShard and its code. Its serving order
(all first choices first) is not: a decoder serves token by token, or later tokens would decide
which earlier ones are dropped. Nor is Adafactor's constant decay of 0.99: ours grows with the step.
"""

from functools import partial

from turnout.config.attention import AttentionConfig
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.initialisation import FanInInit
from turnout.config.losses import LossConfig
from turnout.config.model import DecoderOnlyConfig
from turnout.config.moe import MoEConfig
from turnout.config.optimizers import AdafactorConfig
from turnout.config.positions import RelativeBias
from turnout.config.presets.recipes import DENSE, causal
from turnout.config.routers import Top2Router
from turnout.config.routers.top2 import GSHARD_THRESHOLD
from turnout.config.schedules import InverseSqrt
from turnout.config.train import TrainConfig

# layers, d_model, d_ff, heads, vocabulary
SIZES = {
    "1_7b": (24, 2048, 8192, 16, 32_000),
    "8b": (32, 4096, 16_384, 32, 32_000),
    "137b": (64, 8192, 65_536, 128, 32_000),
    "64b": (64, 8192, 32_768, 128, 256_000),
}
SPARSE = (("1_7b", 64), ("1_7b", 128), ("1_7b", 256), ("8b", 64), ("64b", 64))
DENSE_SIZES = ("1_7b", "8b", "137b")

LOSSES = LossConfig(balance=0.01, router_z=0.0, balance_variant="lingvo")
# 1,024 rows of 1,024 tokens are the published 1M tokens a batch; 1.6T tokens of text
TRAIN = TrainConfig(steps=1_500_000, batch_rows=1024, micro_batches=128, clip_norm=0.0)


def glam(size: str, num_experts: int | None = None) -> DecoderOnlyConfig:
    """GLaM at ``size``, dense without ``num_experts``."""
    layers, d_model, d_ff, heads, vocab_size = SIZES[size]
    moe = None
    if num_experts is not None:
        moe = MoEConfig(
            num_experts,
            router=Top2Router(threshold=GSHARD_THRESHOLD),
            expert=FeedForwardConfig(d_ff, "gelu"),
            train_capacity_factor=1.0,
            capacity_rounding="floor_multiple_of_4_up",
        )
    return DecoderOnlyConfig(
        vocab_size=vocab_size,
        d_model=d_model,
        num_layers=layers,
        attention=AttentionConfig(heads, 128),
        feed_forward=FeedForwardConfig(d_ff, "geglu"),
        moe=moe,
        positions=RelativeBias(per_layer=True),
        initialisation=FanInInit(),
        length=1024,
        tied=True,
    )


def _label(size: str) -> str:
    return size.replace("_", ".").upper()


PRESETS = (
    *(
        causal(
            f"glam_{size}",
            f"GLaM {_label(size)}, dense",
            partial(glam, size),
            DENSE,
            TRAIN,
            AdafactorConfig(),
            InverseSqrt(),
        )
        for size in DENSE_SIZES
    ),
    *(
        causal(
            f"glam_{size}_{experts}e",
            f"GLaM {_label(size)}, {experts} experts",
            partial(glam, size, experts),
            LOSSES,
            TRAIN,
            AdafactorConfig(),
            InverseSqrt(),
        )
        for size, experts in SPARSE
    ),
)
