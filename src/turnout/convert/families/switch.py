"""Switch Transformers (2101.03961), as transformers keeps them."""

from collections.abc import Sequence
from typing import Any, final

from turnout.config.errors import UserError
from turnout.config.model import EncoderDecoderConfig, ModelConfig
from turnout.config.moe import MoEConfig, Placement
from turnout.config.routers import Argmax, InputJitter, SwitchRouter, TopKRouter
from turnout.convert.families.base import Family, Layout, Read
from turnout.convert.families.t5 import (
    COPIES,
    IGNORED,
    SUBLAYERS,
    backbone,
    encoder_decoder,
    fields,
    matrices,
    network,
)
from turnout.convert.operations import Stacked
from turnout.convert.rules import Rule


@final
class SwitchFamily(Family):
    """Nothing is dropped: transformers gives every expert ``expert_capacity`` slots a row (64),
    whatever the row's length, and padding takes them too; ``convert.imitation`` takes that over."""

    model_type = "switch_transformers"
    architectures = ("SwitchTransformersForConditionalGeneration",)
    ignored = IGNORED
    copies = COPIES
    kept = frozenset({"expert_capacity"})

    def read(self, values: Read, names: frozenset[str]) -> ModelConfig:
        values.only("router_dtype", "float32", why="routers compute in float32 here")
        for name in ("expert_capacity", "router_ignore_padding_tokens"):
            values.value(name)  # of evaluation with drops; transformers reads the first alone
        activation = values.value("dense_act_fn", "relu")
        jitter = values.number("router_jitter_noise", 0.01)
        moe = MoEConfig(
            values.whole("num_experts"),
            SwitchRouter(
                InputJitter(jitter) if jitter > 0 else Argmax(), values.flag("router_bias")
            ),
            placement=_placement(values),
        )
        tied = values.flag("tie_word_embeddings", True)
        return encoder_decoder(values, activation, moe, tied)

    def write(self, config: ModelConfig) -> dict[str, Any] | None:
        if not isinstance(config, EncoderDecoderConfig) or config.moe is None:
            return None
        found, moe = fields(config), config.moe
        own = moe.expert_ffn(config.feed_forward) == config.feed_forward
        plain = own and config.feed_forward.activation == "relu" and not moe.shared_experts
        if found is None or not plain or moe.extra_ffn or not _is_switch(moe):
            return None
        layers = [len(stack.sparse_layers) for stack in config.stacks()]
        return {
            **found,
            "num_experts": moe.num_experts,
            "num_sparse_encoder_layers": layers[0],
            "num_sparse_decoder_layers": layers[1],
            "encoder_sparse_step": config.encoder_layers // max(layers[0], 1),
            "decoder_sparse_step": config.decoder_layers // max(layers[1], 1),
            "router_jitter_noise": _jitter(moe),
            "router_bias": isinstance(moe.router, SwitchRouter) and moe.router.bias,
            "router_dtype": "float32",
            "dense_act_fn": "relu",
            "expert_capacity": moe.eval_slots or _enough(config),
        }

    def rules(self, config: ModelConfig, layout: Layout, names: frozenset[str]) -> Sequence[Rule]:
        found = [*backbone(config, names), *network("mlp", config, "dense")]
        for stack, sublayer in SUBLAYERS.items():
            ours, theirs = (
                "{stack}.blocks.{layer}.feed_forward.moe",
                f"{{stack}}.block.{{layer}}.{sublayer}.mlp",
            )
            for part in router_parts(config):
                router = (f"{ours}.router.{part}",), (f"{theirs}.router.classifier.{part}",)
                found.append(Rule(*router, where="sparse", stacks=(stack,)))
            for a, b in matrices(config.feed_forward).items():
                experts = (
                    (f"{ours}.experts.{a}",),
                    (f"{theirs}.experts.expert_{{expert}}.{b}.weight",),
                )
                found.append(Rule(*experts, Stacked(), where="sparse", stacks=(stack,)))
        return found

    def layout(self, names: frozenset[str]) -> Layout:
        return "experts"


SWITCH = SwitchFamily()


def router_parts(config: ModelConfig) -> tuple[str, ...]:
    """Parameters of a linear router, of ours and of theirs."""
    router = None if config.moe is None else config.moe.router
    biased = isinstance(router, SwitchRouter | TopKRouter) and router.bias
    return ("weight", "bias") if biased else ("weight",)


def _enough(config: EncoderDecoderConfig) -> int:
    """Slots with which transformers drops nothing of rows of the configured length."""
    return max(config.encoder_length, config.decoder_length)


def _is_switch(moe: MoEConfig) -> bool:
    return isinstance(moe.router, SwitchRouter) and moe.decoder_router in (None, moe.router)


def _jitter(moe: MoEConfig) -> float:
    exploration = moe.router.exploration if isinstance(moe.router, SwitchRouter) else None
    return exploration.epsilon if isinstance(exploration, InputJitter) else 0.0


def _placement(values: Read) -> Placement:
    """transformers has layers 1, 1 + step, 1 + 2 step, .. sparse; all of them for a step of 1."""
    steps = set()
    for stack, layers in (("encoder", "num_layers"), ("decoder", "num_decoder_layers")):
        total = values.whole(layers, values.whole("num_layers"))
        sparse = values.whole(f"num_sparse_{stack}_layers", 3)
        values.value(f"{stack}_sparse_step")
        steps.add(max(total // sparse, 1))
    if len(steps) > 1:
        raise UserError(
            f"config.json: num_sparse_encoder_layers and num_sparse_decoder_layers: make steps of "
            f"{' and '.join(map(str, sorted(steps)))} layers; must be the same in both stacks"
        )
    (step,) = steps
    if step <= 2:
        return Placement(step=step)
    raise UserError(
        f"config.json: num_sparse_encoder_layers: makes every {step}th layer sparse, from the "
        "second on; only every layer and every second one is supported"
    )
