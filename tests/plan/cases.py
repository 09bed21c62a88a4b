"""A run small enough to be counted by hand."""

from collections.abc import Mapping
from dataclasses import replace

from turnout.config import io, presets
from turnout.config.attention import AttentionConfig
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.model import DecoderOnlyConfig
from turnout.config.moe import MoEConfig
from turnout.config.parallel import ParallelPlan
from turnout.config.positions import Rotary
from turnout.config.train import RunConfig, TrainConfig
from turnout.plan.hardware import Device

# A dense layer and a sparse one of 4 experts; rows of 6 tokens.
MODEL = DecoderOnlyConfig(
    vocab_size=10,
    d_model=8,
    num_layers=2,
    attention=AttentionConfig(2, 4),
    feed_forward=FeedForwardConfig(16),
    moe=MoEConfig(4),
    positions=Rotary(),
    length=6,
    tied=True,
)
RUN = RunConfig(
    model=MODEL, train=TrainConfig(batch_rows=8, eval_rows=8, micro_batches=1, dtype="float32")
)

DEVICE = Device(
    name="round",
    memory=1e6,
    bfloat16=2e6,
    float32=1e6,
    bandwidth=1e6,
    link=1e4,
    network=1e3,
    node=4,
    power=100.0,
)


def trained(**changes: object) -> RunConfig:
    """``RUN`` with other values in ``[train]``."""
    return replace(RUN, train=replace(RUN.train, **changes))


def over(ranks: int, **sizes: object) -> ParallelPlan:
    """A plan with all its sizes as numbers."""
    return ParallelPlan(**sizes).over(ranks)  # type: ignore[arg-type]


def few(options: Mapping[str, str]) -> RunConfig:
    """A preset with small widths; ``preset`` and ``objective`` are options too. Nothing is
    dropped, so that all assignments travel."""
    given = dict(options)
    run = presets.run(given.pop("preset", "switch_tiny"), given.pop("objective", None))
    small = {
        "model.d_model": "32",
        "model.feed_forward.d_ff": "48",
        "model.vocab_size": "50",
        "model.attention.num_heads": "4",
        "model.attention.head_dim": "8",
        "model.moe.train_capacity_factor": "none",
        "train.dtype": "float32",
    }
    length = "length" if run.model.kind == DecoderOnlyConfig.kind else "encoder_length"
    return io.override(run, {**small, f"model.{length}": "24", **given})
