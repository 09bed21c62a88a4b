"""Traces that can be counted by hand."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from tests.models.cases import MODERN
from tests.simulate.cases import small
from turnout.config.model import DecoderOnlyConfig
from turnout.config.moe import MoEConfig, Placement
from turnout.config.parallel import ParallelPlan
from turnout.config.routers import RouterConfig, SwitchRouter
from turnout.config.train import RunConfig
from turnout.moe.record import RoutingRecord

LAYER = "decoder.0.moe"


def model(
    experts: int, length: int, layers: int = 1, router: RouterConfig | None = None, **moe: object
) -> DecoderOnlyConfig:
    """All ``layers`` are sparse; capacity 1.0, of one slot at least."""
    settings: dict[str, object] = {
        "placement": Placement(step=1),
        "min_capacity": 1,
        "train_capacity_factor": 1.0,
        **moe,
    }
    sparse = MoEConfig(experts, router or SwitchRouter(), **settings)  # type: ignore[arg-type]
    return replace(MODERN, num_layers=layers, length=length, moe=sparse)


def run(config: DecoderOnlyConfig, rows: int) -> RunConfig:
    """Whose micro-batch has ``rows`` rows."""
    return small(ParallelPlan(), config, rows)


def written(path: Path, *layers: Sequence[Sequence[Sequence[int]]]) -> str:
    """The path of a record of experts [B, S, K], of ``decoder.0.moe`` and the layers behind it."""
    expert = torch.stack([torch.tensor(layer) for layer in layers], 2)
    names = [f"decoder.{number}.moe" for number in range(len(layers))]
    RoutingRecord.of_experts(names, expert).save(path)
    return str(path)


def top_1(*rows: Sequence[int]) -> list[list[list[int]]]:
    """One choice a token: [B, S, 1] from [B, S]."""
    return [[[expert] for expert in row] for row in rows]
