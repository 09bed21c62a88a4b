"""A small run whose weights and collectives can be counted by hand."""

from dataclasses import replace

from tests.models.cases import GLAM
from turnout.config import presets
from turnout.config.model import ModelConfig
from turnout.config.moe import MoEConfig, Placement
from turnout.config.optimizers import AdamWConfig
from turnout.config.parallel import ParallelPlan
from turnout.config.routers import TopKRouter
from turnout.config.train import RunConfig

TOP2 = MoEConfig(4, TopKRouter(2), placement=Placement(step=1), train_capacity_factor=None)
MODEL = replace(GLAM, moe=TOP2)


def small(plan: ParallelPlan, model: ModelConfig = MODEL, rows: int = 4) -> RunConfig:
    """Float32, one micro-batch."""
    span = model.kind == "encoder_decoder"
    run = presets.run("switch_tiny", "span" if span else "causal")
    losses = replace(run.losses, scope="group")
    train = replace(run.train, batch_rows=rows, micro_batches=1, dtype="float32", average=0.0)
    optimizer = AdamWConfig()
    return replace(run, model=model, train=train, losses=losses, optimizer=optimizer, parallel=plan)


def in_half(run: RunConfig) -> RunConfig:
    """The same in bfloat16."""
    return replace(run, train=replace(run.train, dtype="bfloat16"))
