"""Models that two cores train on bytes, in minutes (``switch_demo``, ``switch_tiny``) or hours.

384 vocabulary entries: 256 bytes, three specials, and the sentinels of span corruption. Each is
balanced as the Switch paper says (0.01), with ST-MoE's router z-loss (0.001), the 0.1
initialisation of experts, capacity 1.25 in training, and rows as routing groups.

``switch_tiny`` and ``switch_mini`` follow the objective: causal, a decoder; span corruption, the
encoder and decoder of the Switch paper with half of the layers each.
"""

from dataclasses import replace

from turnout.config.attention import AttentionConfig
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.initialisation import FanInInit
from turnout.config.model import DecoderOnlyConfig, EncoderDecoderConfig, ModelConfig
from turnout.config.moe import MoEConfig
from turnout.config.optimizers import AdamWConfig
from turnout.config.presets.preset import ObjectiveKind, Preset
from turnout.config.schedules import Cosine
from turnout.config.train import CausalConfig, RunConfig, SpanConfig, TrainConfig

VOCAB_SIZE = 384
COSINE = Cosine()


def decoder(
    d_model: int, layers: int, heads: int, length: int, num_experts: int = 8
) -> DecoderOnlyConfig:
    """A causal Switch Transformer, every other layer sparse."""
    return DecoderOnlyConfig(
        vocab_size=VOCAB_SIZE,
        d_model=d_model,
        num_layers=layers,
        attention=AttentionConfig(heads, d_model // heads),
        feed_forward=FeedForwardConfig(4 * d_model),
        moe=MoEConfig(num_experts),
        initialisation=FanInInit(),
        length=length,
    )


def encoder_decoder(
    d_model: int, layers: int, heads: int, num_experts: int = 8
) -> EncoderDecoderConfig:
    """The Switch paper's form with ``layers`` in each stack: 512 tokens in, 114 out."""
    return EncoderDecoderConfig(
        vocab_size=VOCAB_SIZE,
        d_model=d_model,
        encoder_layers=layers,
        decoder_layers=layers,
        attention=AttentionConfig(heads, d_model // heads, scaled=False),
        feed_forward=FeedForwardConfig(4 * d_model),
        moe=MoEConfig(num_experts),
    )


def switch_demo(objective: ObjectiveKind = "causal") -> RunConfig:
    """The model of ``make demo``: 4 layers of width 128, two of them with 8 experts.

    Two heads of 64, since attention's cost on a CPU grows with their number.
    """
    return _run(
        "switch_demo",
        decoder(128, layers=4, heads=2, length=256),
        objective,
        TrainConfig(steps=950, batch_rows=16, eval_every=250),
        AdamWConfig(3e-3),
        Cosine(warmup=50, floor=0.05),
    )


def switch_tiny(objective: ObjectiveKind = "causal") -> RunConfig:
    """Width 128: 4 layers, or 2 + 2."""
    model: ModelConfig = decoder(128, layers=4, heads=4, length=512)
    train = TrainConfig(steps=2000, batch_rows=16, eval_every=250)
    if objective == "span":
        model = encoder_decoder(128, layers=2, heads=4)
        train = replace(train, steps=600)
    return _run("switch_tiny", model, objective, train, AdamWConfig(2e-3))


def switch_mini(objective: ObjectiveKind = "causal") -> RunConfig:
    """Width 256: 8 layers, or 4 + 4."""
    model: ModelConfig = decoder(256, layers=8, heads=4, length=512)
    if objective == "span":
        model = encoder_decoder(256, layers=4, heads=4)
    train = TrainConfig(steps=4000, batch_rows=32)
    return _run("switch_mini", model, objective, train, AdamWConfig(1e-3))


def _run(
    name: str,
    model: ModelConfig,
    objective: ObjectiveKind,
    train: TrainConfig,
    optimizer: AdamWConfig,
    schedule: Cosine = COSINE,
) -> RunConfig:
    return RunConfig(
        model=model,
        objective=SpanConfig() if objective == "span" else CausalConfig(),
        optimizer=optimizer,
        schedule=schedule,
        train=train,
        preset=name,
    )


PRESETS = (
    Preset("switch_demo", "8 experts, minutes on two cores", switch_demo, ("causal",)),
    Preset("switch_tiny", "width 128, 8 experts, both forms", switch_tiny, ("causal", "span")),
    Preset("switch_mini", "width 256, 8 experts, both forms", switch_mini, ("causal", "span")),
)
