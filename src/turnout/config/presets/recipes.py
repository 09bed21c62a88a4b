"""The two training recipes around published models: that of T5, and that of today."""

from collections.abc import Callable
from dataclasses import replace

from turnout.config.losses import LossConfig
from turnout.config.model import DecoderOnlyConfig, EncoderDecoderConfig
from turnout.config.optimizers import AdafactorConfig, AdamWConfig
from turnout.config.presets.preset import Preset
from turnout.config.schedules import Cosine, InverseSqrt
from turnout.config.train import RunConfig, SpanConfig, TrainConfig

DENSE = LossConfig(balance=0.0, router_z=0.0)
HEAD_Z = 1e-4  # the z-loss on the output logits of Mesh-TF and T5X


def span(
    name: str,
    summary: str,
    model: Callable[[], EncoderDecoderConfig],
    losses: LossConfig = DENSE,
    train: TrainConfig | None = None,
) -> Preset:
    """Span corruption with Adafactor at ``1 / sqrt(max(step, 10000))``.

    2,048 rows of 512 tokens make the 2^20 tokens a batch of the Switch paper, section 4.1;
    550,000 steps are its 576B tokens. No clipping of the global norm: Adafactor clips updates.
    """
    train = train or TrainConfig(steps=550_000, batch_rows=2048, micro_batches=128, clip_norm=0.0)

    def build(objective: str) -> RunConfig:
        return RunConfig(
            model=model(),
            objective=SpanConfig(),
            losses=replace(losses, head_z=HEAD_Z),
            optimizer=AdafactorConfig(),
            schedule=InverseSqrt(),
            train=train,
            preset=name,
        )

    return Preset(name, summary, build, ("span",))


def causal(
    name: str,
    summary: str,
    model: Callable[[], DecoderOnlyConfig],
    losses: LossConfig,
    train: TrainConfig,
    optimizer: AdamWConfig | AdafactorConfig,
    schedule: Cosine | InverseSqrt,
) -> Preset:
    """Next-token prediction."""

    def build(objective: str) -> RunConfig:
        return RunConfig(
            model=model(),
            losses=losses,
            optimizer=optimizer,
            schedule=schedule,
            train=train,
            preset=name,
        )

    return Preset(name, summary, build, ("causal",))
