"""A dense model from a sparse one: the start of a student, or a part of its teacher."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

from turnout.config.errors import UserError, require
from turnout.config.model import ModelConfig
from turnout.config.train import RunConfig
from turnout.surgery.base import Expectation, Rules, Surgery, one
from turnout.surgery.changes import Blend, Drawn, Single
from turnout.surgery.fresh import Fresh
from turnout.surgery.layers import Layer, experts_of, sparse_layers


@final
@dataclass(frozen=True)
class Dense(Surgery):
    """The dense twin, whose networks are blends of the experts; everything else is copied.

    Attributes:
        blends: of each sparse layer by name; None leaves the networks as training from scratch
            would begin with them, which is a student's start for distillation
            (Switch Transformers, 2101.03961, section 4.2: the rest from the teacher).
        asked: the arguments, for the receipt.
    """

    blends: Mapping[str, Blend] | None
    asked: Mapping[str, Any]
    seed: int = 0

    kind = "dense"

    def run(self, old: RunConfig) -> RunConfig:
        layers = sparse_layers(old.model)
        model = old.model.dense_twin()
        if self.blends is not None:
            model = replace(model, feed_forward=_network(old.model, layers))
        losses = replace(
            old.losses, balance=0.0, router_z=0.0, importance=0.0, load=0.0, entropy=0.0
        )
        return replace(old, model=model, losses=losses)

    def rules(self, old: ModelConfig, new: ModelConfig) -> Rules:
        found: Rules = []
        fresh = Fresh(new, self.seed)
        for name, layer in sparse_layers(old).items():
            twin = replace(layer, network=new.feed_forward)
            for part in twin.parts:
                if self.blends is None:
                    change = Drawn(fresh.draw(layer.prefix, f"network.{part}"))
                    found.append(one(layer.dense(part), (), change))
                else:
                    single = Single(self.blends[name])
                    found.append(one(layer.dense(part), [layer.stacked(part)], single))
        return found

    def expected(self, old: ModelConfig, new: ModelConfig) -> Expectation:
        if self.blends is None:
            return Expectation(False, "the networks of the sparse layers begin anew")
        return Expectation(False, "one network stands where a token had its choice of experts")

    def arguments(self) -> Mapping[str, Any]:
        return self.asked

    def old_labels(self) -> Sequence[int] | None:
        return None


def mean(config: ModelConfig) -> Dense:
    """Every network the mean of the layer's experts."""
    layers = sparse_layers(config)
    blends = {
        name: Blend.mean((expert, 1.0) for expert in range(experts_of(layer)))
        for name, layer in layers.items()
    }
    return Dense(blends, {"expert": "mean"})


def number(config: ModelConfig, expert: int) -> Dense:
    """Every network the expert of that number.

    Raises:
        UserError: a layer has no such expert.
    """
    for name, layer in sparse_layers(config).items():
        most = experts_of(layer) - 1
        require(0 <= expert <= most, "--expert", expert, f"one of 0 to {most} in {name}")
    return Dense({name: Blend.copy(expert) for name in sparse_layers(config)}, {"expert": expert})


def heaviest(config: ModelConfig, loads: Mapping[str, Sequence[float]]) -> Dense:
    """Every network the expert that serves the most tokens, the first of several."""
    blends = {
        name: Blend.copy(max(range(experts_of(layer)), key=lambda e, n=name: loads[n][e]))  # type: ignore[misc]
        for name, layer in sparse_layers(config).items()
    }
    shown = {name: [float(load) for load in values] for name, values in loads.items()}
    return Dense(blends, {"expert": "heaviest", "loads": shown})


def fresh(config: ModelConfig, seed: int) -> Dense:
    """Networks as training from scratch would begin with them."""
    assert sparse_layers(config)
    return Dense(None, {"expert": "none", "seed": seed}, seed)


def _network(config: ModelConfig, layers: Mapping[str, Layer]) -> Any:
    """The one shape of all networks.

    Raises:
        UserError: there is none, or an expert is not all that stands in a layer.
    """
    moe = config.moe
    assert moe is not None
    if moe.shared_experts or moe.extra_ffn:
        raise UserError(
            "model.moe.shared_experts, model.moe.extra_ffn: a dense layer has no place for them; "
            "--expert none begins its networks anew"
        )
    dense = any(len(stack.sparse_layers) < stack.num_layers for stack in config.stacks())
    expert = next(iter(layers.values())).network
    if dense and expert != config.feed_forward:
        raise UserError(
            f"model.moe.expert.d_ff = {expert.d_ff}: must be that of the dense layers "
            f"({config.feed_forward.d_ff}), of which a dense model has one; --expert none begins "
            "the networks anew"
        )
    return expert
