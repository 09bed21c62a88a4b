"""A run small enough to be counted by hand."""

from dataclasses import replace

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
