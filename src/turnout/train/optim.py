"""Optimisers from configurations: which parameters decay, and which are stacked experts."""

from collections.abc import Iterator
from functools import singledispatch
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer

from turnout.config.train import AdafactorConfig, AdamWConfig
from turnout.train.adafactor import Adafactor

NamedParameters = list[tuple[str, nn.Parameter]]

__all__ = ["Adafactor", "build_optimizer", "is_router", "set_learning_rate"]


@singledispatch
def build_optimizer(config: object, model: nn.Module) -> Optimizer:
    """The optimiser of ``config`` over the parameters of ``model`` that train."""
    raise TypeError(f"no optimiser for {type(config).__name__}")


@build_optimizer.register
def _adamw(config: AdamWConfig, model: nn.Module) -> Optimizer:
    """Decay on matrices alone: tables (embeddings, relative positions), norms, biases and routers
    keep their size."""
    decayed: NamedParameters = []
    free: NamedParameters = []
    for name, param, stacked in _trainable(model):
        matrix = param.dim() - int(stacked) >= 2
        table = "embedding" in name or "position_bias" in name
        undecayed = not matrix or table or is_router(name)
        (free if undecayed else decayed).append((name, param))
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
    )


@build_optimizer.register
def _adafactor(config: AdafactorConfig, model: nn.Module) -> Optimizer:
    plain: NamedParameters = []
    experts: NamedParameters = []
    for name, param, stacked in _trainable(model):
        (experts if stacked else plain).append((name, param))
    groups: list[dict[str, Any]] = [
        {"params": plain, "stacked": False},
        {"params": experts, "stacked": True},
    ]
    return Adafactor(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        decay_exponent=config.decay_exponent,
        clip_threshold=config.clip_threshold,
        epsilon1=config.epsilon1,
        epsilon2=config.epsilon2,
        min_factored=config.min_factored,
    )


def set_learning_rate(optimizer: Optimizer, value: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = value


def is_router(name: str) -> bool:
    """Whether a parameter's name places it in a router."""
    return "router" in name.split(".")


def _trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, bool]]:
    """Name, parameter and whether its first dimension counts experts; frozen ones left out."""
    for name, param in model.named_parameters():
        if param.requires_grad:
            yield name, param, "experts" in name.split(".")
