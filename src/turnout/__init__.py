"""Sparse expert models: build, train, check and run them.

The names below are imported when they are first used, so that ``import turnout`` costs no torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Batch": "turnout.data.batch",
    "ConfigError": "turnout.config.errors",
    "DecoderOnlyConfig": "turnout.config.model",
    "EncoderDecoderConfig": "turnout.config.model",
    "FeedForwardConfig": "turnout.config.feed_forward",
    "GenerateOptions": "turnout.config.generation",
    "Hook": "turnout.train.hooks.base",
    "LayerStats": "turnout.moe.stats",
    "LoraConfig": "turnout.config.lora",
    "LossConfig": "turnout.config.losses",
    "MoEConfig": "turnout.config.moe",
    "MoELayer": "turnout.moe.layer",
    "Router": "turnout.moe.routers.base",
    "RouterShape": "turnout.moe.routers.base",
    "RoutingContext": "turnout.moe.context",
    "RunConfig": "turnout.config.train",
    "UserError": "turnout.config.errors",
    "adapt": "turnout.models.adapters",
    "build_layer": "turnout.moe.build",
    "build_model": ("turnout.models.build", "build"),
    "build_objective": ("turnout.objectives", "build"),
    "load": "turnout.convert.api",
    "load_preset": ("turnout.config.presets", "run"),
    "merge": "turnout.models.adapters",
    "register_router": "turnout.moe.routers.custom",
    "save": "turnout.convert.api",
    "save_adapter": "turnout.integrations.peft",
    "router_losses": "turnout.moe.losses",
    "load_run": "turnout.train.session",
    "open_session": "turnout.train.session",
    "Trainer": "turnout.train.trainer",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'turnout' has no attribute {name!r}")
    place = _PUBLIC[name]
    module, attribute = (place, name) if isinstance(place, str) else place
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
