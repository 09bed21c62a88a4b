"""Where the experts of a model stand, and which of its tensors are theirs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from turnout.config.errors import UserError
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.model import ModelConfig
from turnout.config.moe import MoEConfig

# The axis of one expert's tensor that counts hidden units; a tensor without one has None.
HIDDEN: Final[Mapping[str, int | None]] = MappingProxyType(
    {
        "w_in": 1,
        "w_gate": 1,
        "w_out": 0,
        "b_in": 0,
        "b_gate": 0,
        "b_out": None,
        "hidden_bias": 0,
    }
)


@dataclass(frozen=True)
class Layer:
    """A feed-forward layer: a sparse one of ``moe``, whose experts are ``network``, or a dense one.

    Attributes:
        name: as in reports, such as ``decoder.3.moe``.
        prefix: of its tensors.
    """

    name: str
    prefix: str
    network: FeedForwardConfig
    moe: MoEConfig | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """The tensors of a network, by their last names."""
        gate = ("w_gate",) if self.network.gated else ()
        biases = ("b_in", *(("b_gate",) if gate else ()), "b_out") if self.network.bias else ()
        hidden = ("hidden_bias",) if self.network.hidden_bias != "none" else ()
        return ("w_in", *gate, "w_out", *biases, *hidden)

    def dense(self, part: str) -> str:
        """The name of a tensor of the dense network."""
        return f"{self.prefix}.network.{part}"

    def stacked(self, part: str) -> str:
        """The name of the same tensor of all experts."""
        return f"{self.prefix}.moe.experts.{part}"

    def router(self, part: str) -> str:
        """The name of a tensor of the router."""
        return f"{self.prefix}.moe.router.{part}"


def sparse_layers(config: ModelConfig) -> dict[str, Layer]:
    """The sparse layers by name, in the order of the model.

    Raises:
        UserError: the model has none, or has experts in attention.
    """
    if config.moe is None:
        raise UserError("model.moe = none: the model is dense; `turnout surgery upcycle` first")
    if config.moe.in_attention:
        raise UserError(
            f"model.moe.attention = {config.moe.attention!r}: must be 'none' for surgery, which "
            "knows feed-forward experts alone"
        )
    found = {}
    for stack in config.stacks():
        for layer, moe in zip(stack.sparse_layers, stack.sparse, strict=True):
            name = f"{stack.name}.{layer}.moe"
            prefix = f"{stack.name}.blocks.{layer}.feed_forward"
            found[name] = Layer(name, prefix, moe.expert_ffn(stack.feed_forward), moe)
    return found


def counts(config: ModelConfig) -> dict[str, int]:
    """The experts of each sparse layer by its name."""
    return {name: experts_of(layer) for name, layer in sparse_layers(config).items()}


def experts_of(layer: Layer) -> int:
    """How many a sparse layer has."""
    assert layer.moe is not None
    return layer.moe.num_experts


def with_counts(
    config: ModelConfig, numbers: Mapping[str, int], others: Mapping[str, Any]
) -> MoEConfig:
    """The experts of ``config``, so many in each sparse layer, and ``others`` of its fields changed
    at once.

    Raises:
        UserError: no configuration says so: stacks whose layers differ.
    """
    assert config.moe is not None
    if len(set(numbers.values())) == 1:
        number = next(iter(numbers.values()))
        return replace(config.moe, num_experts=number, pyramid=(), **others)
    by_stack = {
        stack.name: tuple(numbers[f"{stack.name}.{layer}.moe"] for layer in stack.sparse_layers)
        for stack in config.stacks()
    }
    lists = {each for each in by_stack.values() if each}
    if len(lists) > 1:
        shown = ", ".join(f"{name} {list(each)}" for name, each in by_stack.items())
        raise UserError(f"model.moe.pyramid: must be one list for all stacks, not {shown}")
    (pyramid,) = lists
    return replace(config.moe, num_experts=max(pyramid), pyramid=pyramid, **others)
