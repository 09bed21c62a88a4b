"""Small random models as runs' folders, and operations on them without a command line."""

from pathlib import Path
from typing import Any

import torch

import turnout
from turnout.config.attention import AttentionConfig
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.model import DecoderOnlyConfig, EncoderDecoderConfig, FanInInit, ModelConfig
from turnout.config.moe import MoEConfig, Placement
from turnout.config.routers import SwitchRouter, TopKRouter
from turnout.models.base import Model
from turnout.surgery.base import Surgery
from turnout.surgery.opened import open_source
from turnout.surgery.operate import Job, Optimizer
from turnout.surgery.receipt import Receipt
from turnout.surgery.rows import random_rows

ATTENTION = AttentionConfig(num_heads=2, head_dim=4)
GATED = FeedForwardConfig(12, "swiglu")
PLAIN = FeedForwardConfig(12, "relu")
BIASED = FeedForwardConfig(12, "geglu", bias=True, hidden_bias="multiplicative")


def decoder(network: FeedForwardConfig = GATED, moe: MoEConfig | None = None) -> DecoderOnlyConfig:
    return DecoderOnlyConfig(
        vocab_size=31,
        d_model=8,
        num_layers=2,
        attention=ATTENTION,
        feed_forward=network,
        moe=moe,
        length=64,
        initialisation=FanInInit(),
    )


def two_stacks(
    network: FeedForwardConfig = PLAIN, moe: MoEConfig | None = None
) -> EncoderDecoderConfig:
    return EncoderDecoderConfig(
        vocab_size=31,
        d_model=8,
        encoder_layers=2,
        decoder_layers=4,
        attention=ATTENTION,
        feed_forward=network,
        moe=moe,
        encoder_length=64,
        decoder_length=64,
    )


def sparse(experts: int = 4, **fields: Any) -> MoEConfig:
    """Top-2, renormalised, in every layer, unless said otherwise."""
    usual: dict[str, Any] = {
        "router": TopKRouter(2),
        "placement": Placement(1),
        "train_capacity_factor": None,
        "init_scale": 1.0,
    }
    return MoEConfig(experts, **{**usual, **fields})


SWITCH = {"router": SwitchRouter(), "placement": Placement(2)}


def built(config: ModelConfig, seed: int = 0) -> Model:
    """A model no two of whose tensors are alike, biases included."""
    model = turnout.build_model(config)
    model.init_weights(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "router" in name:
                parameter.normal_(0.0, 0.5, generator=generator)
            elif "bias" in name or ".b_" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def saved(config: ModelConfig, path: Path, seed: int = 0) -> Path:
    return turnout.save(built(config, seed), path)


def operate(
    surgery: Surgery,
    sources: Path | list[Path],
    target: Path,
    optimizer: Optimizer = "drop",
    **overrides: str,
) -> Receipt:
    """Checked on random rows."""
    paths = sources if isinstance(sources, list) else [sources]
    opened = tuple(open_source(str(path)) for path in paths)
    job = Job(surgery, opened, overrides, optimizer, random_rows)
    return job.planned().write(target)


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return dict(turnout.load(path).state_dict())


def logits(model: Model) -> torch.Tensor:
    """Of random rows that depend on the vocabulary alone, [B S V] in float64."""
    from turnout.config.objective import CausalConfig, SpanConfig
    from turnout.config.train import RunConfig

    span = isinstance(model.config, EncoderDecoderConfig)
    run = RunConfig(model.config, SpanConfig() if span else CausalConfig())
    (batch,) = random_rows(run).batches
    with torch.no_grad():
        output = model(batch)
        return output.head.logits(output.hidden).double()


def apart(one: Path, other: Path) -> float:
    """The largest difference of a logit over the largest logit, in float64 throughout."""
    left, right = (logits(turnout.load(path, dtype=torch.float64)) for path in (one, other))
    return float((left - right).abs().max() / left.abs().max())
