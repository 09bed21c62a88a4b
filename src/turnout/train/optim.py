"""Optimisers from configurations: parameters grouped by role, and which of them decay."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, Literal, Protocol, runtime_checkable

from torch import nn
from torch.optim import AdamW, Optimizer

from turnout.config.optimizers import AdafactorConfig, AdamWConfig
from turnout.train.adafactor import Adafactor
from turnout.train.ranks import Whole

Role = Literal["other", "router", "experts"]

__all__ = ["Adafactor", "build_optimizer", "expert_parameters", "role_of", "set_learning_rate"]


@runtime_checkable
class Named(Protocol):
    """A module, or as much of one as a rank holds."""

    def named_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """Parameters with their names."""


WholeOf = Callable[[str], Whole | None]


def _unsharded(name: str) -> Whole | None:
    return None


@singledispatch
def build_optimizer(config: object, model: Named, whole: WholeOf = _unsharded) -> Optimizer:
    """The optimiser of ``config`` over the parameters of ``model`` that train.

    Args:
        whole: by a parameter's name what it is the block of, where it is not whole.
    """
    raise TypeError(f"no optimiser for {type(config).__name__}")


@build_optimizer.register
def _adamw(config: AdamWConfig, model: Named, whole: WholeOf = _unsharded) -> Optimizer:
    """Decay on matrices alone: tables (embeddings, relative positions), norms, biases and routers
    keep their size."""
    return AdamW(
        [
            {"params": members, "weight_decay": config.weight_decay if decays else 0.0, **role}
            for decays in (True, False)
            for role, members in _by_role(
                config, [t for t in _trained(model) if _decays(t) == decays]
            )
        ],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=True,
    )


@build_optimizer.register
def _adafactor(config: AdafactorConfig, model: Named, whole: WholeOf = _unsharded) -> Optimizer:
    return Adafactor(
        [
            {"params": members, "stacked": role["role"] == "experts", **role}
            for role, members in _by_role(config, _trained(model))
        ],
        lr=config.learning_rate,
        decay_exponent=config.decay_exponent,
        clip_threshold=config.clip_threshold,
        epsilon1=config.epsilon1,
        epsilon2=config.epsilon2,
        min_factored=config.min_factored,
        whole=whole,
    )


def set_learning_rate(optimizer: Optimizer, value: float) -> None:
    """Set every group's learning rate: ``value`` times what its role learns at."""
    for group in optimizer.param_groups:
        group["lr"] = value * group.get("rate", 1.0)  # an optimiser of the user's has no roles


def role_of(name: str) -> Role:
    """What a parameter is, by its name: an expert's, a router's, or any other."""
    parts = name.split(".")
    if "experts" in parts:
        return "experts"
    return "router" if "router" in parts else "other"


def expert_parameters(model: Named) -> list[nn.Parameter]:
    """The stacked experts' parameters that train."""
    return [each.param for each in _trained(model) if each.role == "experts"]


@dataclass(frozen=True)
class _Trained:
    name: str
    param: nn.Parameter
    role: Role


def _trained(model: Named) -> list[_Trained]:
    return [
        _Trained(name, param, role_of(name))
        for name, param in model.named_parameters()
        if param.requires_grad
    ]


def _by_role(
    config: AdamWConfig | AdafactorConfig, trained: list[_Trained]
) -> Iterator[tuple[dict[str, Any], list[tuple[str, nn.Parameter]]]]:
    """Parameters with their names, a group for each role that has any."""
    rates = {"other": 1.0, "router": config.router_rate, "experts": config.expert_rate}
    for role, rate in rates.items():
        members = [(each.name, each.param) for each in trained if each.role == role]
        if members:
            yield {"role": role, "rate": rate}, members


def _decays(trained: _Trained) -> bool:
    # The first dimension of stacked experts counts experts.
    dims = trained.param.dim() - int(trained.role == "experts")
    table = "embedding" in trained.name or "position_bias" in trained.name
    return dims >= 2 and not table and trained.role != "router"
