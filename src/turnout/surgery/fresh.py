"""Tensors of a layer as training from scratch would begin with them, a layer at a time."""

import copy
from typing import cast, final

import torch
from torch import Tensor, nn

from turnout import models
from turnout.config.model import ModelConfig
from turnout.models.blocks import FeedForwardSublayer
from turnout.surgery.changes import Draw, seed_of


@final
class Fresh:
    """The feed-forward layers of a model, drawn when they are asked for; in memory is one.

    Args:
        router_std: standard deviation of routers; None for that of the model's configuration.
    """

    def __init__(self, config: ModelConfig, seed: int, router_std: float | None = None) -> None:
        self._model = models.build(config, device="meta")
        self._seed = seed
        self._router_std = router_std
        self._last: tuple[str, dict[str, Tensor]] = ("", {})

    def tensor(self, prefix: str, part: str) -> Tensor:
        """``PREFIX.PART``, prefix that of a layer such as ``decoder.blocks.3.feed_forward``."""
        if self._last[0] != prefix:
            self._last = (prefix, self._drawn(prefix))
        return self._last[1][part]

    def draw(self, prefix: str, part: str) -> Draw:
        """What gives ``tensor(prefix, part)`` when it is needed."""
        return lambda: self.tensor(prefix, part)

    def router_parts(self, prefix: str) -> list[str]:
        """The names of the tensors of the layer's router."""
        within = f"{prefix}.moe.router."
        return [
            name.removeprefix(within)
            for name in self._model.state_dict()
            if name.startswith(within)
        ]

    def _drawn(self, prefix: str) -> dict[str, Tensor]:
        layer = copy.deepcopy(self._model.get_submodule(prefix)).to_empty(device="cpu")
        generator = torch.Generator().manual_seed(seed_of(self._seed, prefix))
        with torch.no_grad():
            cast(FeedForwardSublayer, layer).init_weights(generator, self._model.deviations)
            for sparse in cast(FeedForwardSublayer, layer).sparse_layers().values():
                if self._router_std is not None:
                    _routed(sparse.router, generator, self._router_std)
        return dict(layer.state_dict())


def _routed(router: nn.Module, generator: torch.Generator, std: float) -> None:
    """Matrices of a router; biases and what follows the loads keep what they begin with."""
    for weight in router.parameters():
        if weight.dim() >= 2:
            weight.normal_(0.0, std, generator=generator)
