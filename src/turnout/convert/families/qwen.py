"""OLMoE (2409.02060), Qwen2-MoE (2407.10671) and Qwen3-MoE (2505.09388): one layout of tensors,
several configurations."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, final

from turnout.config.attention import AttentionConfig
from turnout.config.errors import UserError
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.model import DecoderOnlyConfig, ModelConfig
from turnout.config.moe import MoEConfig, Placement
from turnout.config.routers import CombineWeights, TopKRouter
from turnout.convert.families.base import Family, Layout, Read
from turnout.convert.families.llama import (
    BLOCK,
    COPIES,
    IGNORED,
    NETWORK,
    THEIRS,
    backbone,
    decoder_only,
    experts,
    fields,
    heads,
    layout_of,
)
from turnout.convert.rules import Rule, rule


class QwenLike(Family):
    """Experts below ``mlp.experts``, their router at ``mlp.gate``."""

    ignored = IGNORED
    copies = COPIES
    qk_norm: Literal["none", "head", "full"]

    @abstractmethod
    def own_fields(self, config: DecoderOnlyConfig, moe: MoEConfig) -> dict[str, Any] | None:
        """Fields that this family alone has; None where the model is not of it."""

    def write(self, config: ModelConfig) -> dict[str, Any] | None:
        found, moe = fields(config, self.qk_norm), config.moe
        if found is None or moe is None or not isinstance(config, DecoderOnlyConfig):
            return None
        router = moe.router
        if not isinstance(router, TopKRouter):
            return None
        own = self.own_fields(config, moe)
        return own and {
            **found,
            "num_experts": moe.num_experts,
            "num_experts_per_tok": router.k,
            "norm_topk_prob": router.weights != "raw",
            "attention_bias": False,
            **own,
        }

    def layout(self, names: frozenset[str]) -> Layout:
        return layout_of(names)


@final
class OlmoeFamily(QwenLike):
    """Every layer sparse; norms over whole queries and keys."""

    model_type = "olmoe"
    architectures = ("OlmoeForCausalLM",)
    qk_norm = "full"

    def read(self, values: Read, names: frozenset[str]) -> ModelConfig:
        values.only("attention_bias", False, why="OLMoE has no biases")
        values.only("clip_qkv", None, why="queries, keys and values are not clipped here")
        d_ff = values.whole("intermediate_size")
        moe = moe_of(values, d_ff, Placement(step=1))
        return decoder_only(values, heads(values, "full"), d_ff, moe)

    def rules(self, config: ModelConfig, layout: Layout, names: frozenset[str]) -> Sequence[Rule]:
        return qwen_rules(config, layout)

    def own_fields(self, config: DecoderOnlyConfig, moe: MoEConfig) -> dict[str, Any] | None:
        plain = config.attention.q_width == config.d_model
        if not plain or moe.shared_experts or moe.placement != Placement(step=1):
            return None
        return {"intermediate_size": moe.expert_ffn(config.feed_forward).d_ff, "clip_qkv": None}


@final
class Qwen3MoeFamily(QwenLike):
    """Norms over each head; some layers may be dense."""

    model_type = "qwen3_moe"
    architectures = ("Qwen3MoeForCausalLM",)
    qk_norm = "head"

    def read(self, values: Read, names: frozenset[str]) -> ModelConfig:
        values.only("attention_bias", False, why="Qwen3-MoE is published without")
        no_window(values)
        moe = moe_of(values, values.whole("moe_intermediate_size"), placement(values))
        return decoder_only(values, heads(values, "head"), values.whole("intermediate_size"), moe)

    def rules(self, config: ModelConfig, layout: Layout, names: frozenset[str]) -> Sequence[Rule]:
        return qwen_rules(config, layout)

    def own_fields(self, config: DecoderOnlyConfig, moe: MoEConfig) -> dict[str, Any] | None:
        if moe.shared_experts:
            return None
        return {
            "intermediate_size": config.feed_forward.d_ff,
            "moe_intermediate_size": moe.expert_ffn(config.feed_forward).d_ff,
            **placed(moe.placement, config.num_layers),
        }


@final
class Qwen2MoeFamily(QwenLike):
    """Biases on queries, keys and values; shared experts behind a gate."""

    model_type = "qwen2_moe"
    architectures = ("Qwen2MoeForCausalLM",)
    qk_norm = "none"

    def read(self, values: Read, names: frozenset[str]) -> ModelConfig:
        no_window(values)
        d_ff = values.whole("moe_intermediate_size")
        shared = values.whole("shared_expert_intermediate_size")
        if shared % d_ff:
            raise UserError(
                f"config.json: shared_expert_intermediate_size = {shared}: must be a multiple of "
                f"moe_intermediate_size ({d_ff}): shared experts are as wide as the others here"
            )
        moe = replace(
            moe_of(values, d_ff, placement(values)), shared_experts=shared // d_ff, shared_gate=True
        )
        bias = "qkv" if values.flag("qkv_bias", True) else "none"
        attention = heads(values, bias=bias)
        return decoder_only(values, attention, values.whole("intermediate_size"), moe)

    def own_fields(self, config: DecoderOnlyConfig, moe: MoEConfig) -> dict[str, Any] | None:
        width = moe.expert_ffn(config.feed_forward).d_ff
        attention = config.attention
        if not moe.shared_gate or not isinstance(attention, AttentionConfig):
            return None
        return {
            "intermediate_size": config.feed_forward.d_ff,
            "moe_intermediate_size": width,
            "shared_expert_intermediate_size": moe.shared_experts * width,
            "qkv_bias": attention.bias == "qkv",
            **placed(moe.placement, config.num_layers),
        }

    def rules(self, config: ModelConfig, layout: Layout, names: frozenset[str]) -> Sequence[Rule]:
        ours, theirs = f"{BLOCK}.feed_forward.moe.shared", f"{THEIRS}.mlp.shared_expert"
        return (
            *qwen_rules(config, layout),
            rule(f"{ours}.gate.weight", f"{theirs}_gate.weight", where="sparse"),
            *(
                rule(f"{ours}.network.{a}", f"{theirs}.{b}.weight", where="sparse")
                for a, b in NETWORK.items()
            ),
        )


OLMOE, QWEN2_MOE, QWEN3_MOE = OlmoeFamily(), Qwen2MoeFamily(), Qwen3MoeFamily()


def qwen_rules(config: ModelConfig, layout: Layout) -> list[Rule]:
    """All but shared experts."""
    router = (f"{BLOCK}.feed_forward.moe.router.weight",), (f"{THEIRS}.mlp.gate.weight",)
    return [
        *backbone(config),
        Rule(*router, where="sparse"),
        *experts(layout, f"{THEIRS}.mlp.experts", NETWORK),
    ]


def moe_of(values: Read, d_ff: int, where: Placement) -> MoEConfig:
    """Top-k experts of width ``d_ff``, nothing dropped."""
    experts = values.value("num_experts", values.value("num_local_experts"))
    weights: CombineWeights = "renormalised" if values.flag("norm_topk_prob") else "raw"
    return MoEConfig(
        values.whole("num_experts", experts),
        TopKRouter(values.whole("num_experts_per_tok"), weights),
        expert=FeedForwardConfig(d_ff, "swiglu"),
        init_scale=None,
        placement=where,
        train_capacity_factor=None,
    )


def no_window(values: Read) -> None:
    """Raises UserError where some layers see a window alone."""
    values.only("use_sliding_window", False, why="every token reads all before it here")
    for name in ("sliding_window", "max_window_layers", "layer_types"):
        values.value(name)


def placement(values: Read) -> Placement:
    """Sparse are the layers i with (i + 1) % ``decoder_sparse_step`` = 0, but for
    ``mlp_only_layers``.

    Raises:
        UserError: those are not the first ones of the stack.
    """
    step, dense = values.whole("decoder_sparse_step", 1), sorted(values.layers("mlp_only_layers"))
    if not dense:
        return Placement(step=step)
    if step == 1 and dense == list(range(len(dense))):
        return Placement(step=1, first=len(dense))
    raise UserError(
        f"config.json: mlp_only_layers = {dense}: must be the first layers, with a "
        "decoder_sparse_step of 1"
    )


def placed(where: Placement, layers: int) -> dict[str, Any]:
    """The fields of a placement."""
    if where.first == 0:
        return {"decoder_sparse_step": where.step, "mlp_only_layers": []}
    sparse = where.sparse_layers(layers)
    return {
        "decoder_sparse_step": 1,
        "mlp_only_layers": [layer for layer in range(layers) if layer not in sparse],
    }
