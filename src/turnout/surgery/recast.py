"""Experts made of experts, layer by layer: prune, merge, reorder, clone, split and grow are this
one operation with other blends."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

from turnout.config.errors import UserError
from turnout.config.model import ModelConfig
from turnout.config.routers import RouterConfig
from turnout.config.train import RunConfig
from turnout.surgery.base import Expectation, Rules, Surgery, one
from turnout.surgery.changes import Below, Blend, Change, Remade, seed_of
from turnout.surgery.fresh import Fresh
from turnout.surgery.layers import HIDDEN, Layer, sparse_layers, with_counts

LOAD_BIAS = "balancer.bias"
Blends = Mapping[str, tuple[Blend, ...]]


@final
@dataclass(frozen=True)
class Recast(Surgery):
    """New experts from old ones.

    Attributes:
        blends: of each sparse layer by its name: what each new expert is made of. Rows of the
            router are made alike, but for noise and shares.
        expectation: what is to come of it.
        asked: the arguments, for the receipt.
        routers: the fields of ``moe`` that hold routers, where they change.
        parts: shares that hidden units are cut into; outputs are multiplied by as much.
        asleep: whether the bias that follows the loads keeps added experts from being chosen.
        removed: the label whose domain goes, with its source in the run's mixture.
        labels: by new label the old one, where labels change.
    """

    kind: str
    blends: Blends
    expectation: Expectation
    asked: Mapping[str, Any]
    routers: Mapping[str, RouterConfig | None] = field(default_factory=dict)
    parts: int = 1
    noise: float = 0.0
    seed: int = 0
    router_std: float | None = None
    asleep: bool = False
    removed: int | None = None
    labels: tuple[int, ...] | None = None

    def run(self, old: RunConfig) -> RunConfig:
        data = old.data
        if self.removed is not None and data.mixture is not None:
            left = tuple(s for i, s in enumerate(data.mixture.sources) if i != self.removed)
            data = replace(data, mixture=replace(data.mixture, sources=left))
        return replace(old, model=self.model(old.model), data=data)

    def model(self, old: ModelConfig) -> ModelConfig:
        """The new model's configuration."""
        layers = sparse_layers(old)
        unknown = sorted(self.blends.keys() ^ layers.keys())
        if unknown:
            raise UserError(f"no experts for {unknown[0]}; sparse layers: {', '.join(layers)}")
        others: dict[str, Any] = dict(self.routers)
        if self.parts > 1:
            network = next(iter(layers.values())).network
            others["expert"] = replace(network, d_ff=network.d_ff // self.parts)
        numbers = {name: len(blends) for name, blends in self.blends.items()}
        return replace(old, moe=with_counts(old, numbers, others))

    def rules(self, old: ModelConfig, new: ModelConfig) -> Rules:
        fresh = Fresh(new, self.seed, self.router_std)
        found: Rules = []
        for name, layer in sparse_layers(old).items():
            found += self._experts(layer, self.blends[name], fresh)
            found += self._router(layer, self.blends[name], fresh)
        return found

    def _experts(self, layer: Layer, blends: Sequence[Blend], fresh: Fresh) -> Rules:
        return [
            one(
                layer.stacked(part),
                [layer.stacked(part)],
                Remade(
                    tuple(blends),
                    parts=self.parts,
                    hidden=HIDDEN[part],
                    scale=float(self.parts) if part == "w_out" else 1.0,
                    noise=self.noise,
                    seed=seed_of(self.seed, layer.stacked(part)),
                    draw=fresh.draw(layer.prefix, f"moe.experts.{part}"),
                ),
            )
            for part in layer.parts
        ]

    def _router(self, layer: Layer, blends: Sequence[Blend], fresh: Fresh) -> Rules:
        found: Rules = []
        for part in fresh.router_parts(layer.prefix):
            draw = fresh.draw(layer.prefix, f"moe.router.{part}")
            change: Change = Remade(tuple(blends), by_expert=False, draw=draw)
            if self.asleep and part == LOAD_BIAS:
                change = Below(len(blends))
            found.append(one(layer.router(part), [layer.router(part)], change))
        return found

    def expected(self, old: ModelConfig, new: ModelConfig) -> Expectation:
        return self.expectation

    def arguments(self) -> Mapping[str, Any]:
        return self.asked

    def old_labels(self) -> Sequence[int] | None:
        return self.labels
