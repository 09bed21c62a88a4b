"""T5 1.0 (1910.10683), T5 1.1 and mT5 (2010.11934), the dense models of the Switch paper.

Parameters counted here, beside the published ones in millions: T5 1.0 small 60.5 (60), base
222.9 (223), large 737.7 (738), 3b 2,851.6 (2,851), 11b 11,307 (11,307); T5 1.1 small 77.0 (77),
base 247.6 (248), large 783.2 (783), xl 2,849.8 (2,850), xxl 11,135 (11,135). mT5 is T5 1.1 with
250,112 vocabulary entries: small 300, base 582, large 1,230, xl 3,743, xxl 12,921, published as
300M, 580M, 1.2B, 3.7B and 13B, which verifies that vocabulary.

The Switch paper's Table 9 gives T5-Base and T5-Large a GEGLU network of width 2,048 and 2,816.
T5-Base counts the same either way (3 x 2048 = 2 x 3072); the printed 739M of T5-Large is that of
ReLU and 4,096, so both names stand for T5 1.0. Its T5-XXL is ``t5_1_1_xxl``.
"""

from dataclasses import replace
from functools import partial

from turnout.config.attention import AttentionConfig
from turnout.config.feed_forward import Activation, FeedForwardConfig
from turnout.config.initialisation import FanInInit
from turnout.config.model import EncoderDecoderConfig
from turnout.config.moe import MoEConfig
from turnout.config.presets.recipes import span

VOCAB_SIZE = 32_128  # 32,000 pieces and 100 sentinels, padded
MT5_VOCAB_SIZE = 250_112

# d_model, d_ff, layers of each stack, heads, head_dim
SIZES_1_0 = {
    "small": (512, 2048, 6, 8, 64),
    "base": (768, 3072, 12, 12, 64),
    "large": (1024, 4096, 24, 16, 64),
    "3b": (1024, 16_384, 24, 32, 128),
    "11b": (1024, 65_536, 24, 128, 128),
}
SIZES_1_1 = {
    "small": (512, 1024, 8, 6, 64),
    "base": (768, 2048, 12, 12, 64),
    "large": (1024, 2816, 24, 16, 64),
    "xl": (2048, 5120, 24, 32, 64),
    "xxl": (4096, 10_240, 24, 64, 64),
}


def t5_shape(
    size: tuple[int, int, int, int, int],
    activation: Activation,
    *,
    tied: bool,
    moe: MoEConfig | None = None,
) -> EncoderDecoderConfig:
    """The T5 block at ``size``: relative bias, unscaled attention, fan-in initialisation."""
    d_model, d_ff, layers, heads, head_dim = size
    return EncoderDecoderConfig(
        vocab_size=VOCAB_SIZE,
        d_model=d_model,
        encoder_layers=layers,
        decoder_layers=layers,
        attention=AttentionConfig(heads, head_dim, scaled=False),
        feed_forward=FeedForwardConfig(d_ff, activation),
        moe=moe,
        tied=tied,
    )


def scaled_down(config: EncoderDecoderConfig) -> EncoderDecoderConfig:
    """The same model with the 0.1 initialisation of Switch Transformers, section 2.4."""
    return replace(config, initialisation=FanInInit(0.1))


def t5(size: str) -> EncoderDecoderConfig:
    """T5 1.0: ReLU, one table for embedding and head."""
    return t5_shape(SIZES_1_0[size], "relu", tied=True)


def t5_1_1(size: str) -> EncoderDecoderConfig:
    """T5 1.1: GEGLU, a head of its own."""
    return t5_shape(SIZES_1_1[size], "geglu", tied=False)


def mt5(size: str) -> EncoderDecoderConfig:
    """mT5: T5 1.1 for 101 languages; 1,024 tokens in, 256 out."""
    return replace(t5_1_1(size), vocab_size=MT5_VOCAB_SIZE, encoder_length=1024, decoder_length=256)


PRESETS = (
    *(span(f"t5_{size}", f"T5 1.0 {size}", partial(t5, size)) for size in SIZES_1_0),
    *(span(f"t5_1_1_{size}", f"T5 1.1 {size}", partial(t5_1_1, size)) for size in SIZES_1_1),
    *(span(f"mt5_{size}", f"mT5 {size}", partial(mt5, size)) for size in SIZES_1_1),
)
