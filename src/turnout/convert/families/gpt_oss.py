"""gpt-oss: windows in every other layer, sinks, biases everywhere, a clamped SwiGLU."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, final

from turnout.config.attention import AttentionConfig
from turnout.config.errors import UserError
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.model import DecoderOnlyConfig, ModelConfig
from turnout.config.moe import MoEConfig, Placement
from turnout.config.routers import TopKRouter
from turnout.convert.essence import shortest
from turnout.convert.families.base import Family, Layout, Read
from turnout.convert.families.llama import (
    BLOCK,
    COPIES,
    IGNORED,
    THEIRS,
    backbone,
    decoder_only,
    heads,
    shared_fields,
)
from turnout.convert.families.rotary import read_rotary
from turnout.convert.operations import Alternating
from turnout.convert.rules import Rule, renamed, rule

WINDOW, WHOLE = "sliding_attention", "full_attention"
UNUSED_WINDOW = 128  # transformers makes a mask of it even where no layer takes it
POSITIONS = {  # of a configuration that has none
    "rope_type": "yarn",
    "rope_theta": 150_000.0,
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


@final
class GptOssFamily(Family):
    """Its experts have one layout, all of a layer in two tensors; published in 4 bits."""

    model_type = "gpt_oss"
    architectures = ("GptOssForCausalLM",)
    ignored = IGNORED
    copies = COPIES

    def read(self, values: Read, names: frozenset[str]) -> ModelConfig:
        values.only("swiglu_limit", 7.0, why="its networks are clamped there")
        values.only("swiglu_alpha", 1.702, why="the slope of its networks' gates")
        for name in ("head_dim", "num_key_value_heads"):
            values.whole(name)  # whose values where they are missing are no quotient here
        for name in ("initial_context_length", "experts_per_token"):
            values.value(name)  # which say once more what others do
        network = FeedForwardConfig(values.whole("intermediate_size"), "clamped_swiglu", bias=True)
        moe = MoEConfig(
            values.whole("num_local_experts", values.value("num_experts")),
            _router(values.whole("num_experts_per_tok")),
            expert=network,
            init_scale=None,
            placement=Placement(step=1),
            train_capacity_factor=None,
        )
        bias = "all" if values.flag("attention_bias", True) else "none"
        attention = replace(heads(values, bias=bias), sinks=True, **_windows(values))
        return replace(
            decoder_only(values, attention, network.d_ff, moe),
            feed_forward=network,
            positions=read_rotary(values, absent=POSITIONS),
            norm_epsilon=values.number("rms_norm_eps", 1e-5),
        )

    def write(self, config: ModelConfig) -> dict[str, Any] | None:
        found, moe, attention = shared_fields(config, "none"), config.moe, config.attention
        if found is None or moe is None or not isinstance(config, DecoderOnlyConfig):
            return None
        router, expert = moe.router, moe.expert_ffn(config.feed_forward)
        known = isinstance(router, TopKRouter) and isinstance(attention, AttentionConfig)
        if not known or expert.activation != "clamped_swiglu":
            return None
        assert isinstance(router, TopKRouter) and isinstance(attention, AttentionConfig)
        windows = attention.windows(config.num_layers)
        return {
            **found,
            "intermediate_size": expert.d_ff,
            "num_local_experts": moe.num_experts,
            "num_experts_per_tok": router.k,
            "attention_bias": attention.bias != "none",
            "layer_types": [WHOLE if window is None else WINDOW for window in windows],
            "sliding_window": attention.window or UNUSED_WINDOW,
            "swiglu_limit": 7.0,
            "swiglu_alpha": 1.702,
        }

    def rules(self, config: ModelConfig, layout: Layout, names: frozenset[str]) -> Sequence[Rule]:
        ours, theirs = f"{BLOCK}.feed_forward.moe", f"{THEIRS}.mlp"
        same = {
            "router.weight": "router.weight",
            "router.bias": "router.bias",
            "experts.w_out": "experts.down_proj",
            "experts.b_out": "experts.down_proj_bias",
        }
        both = {("w_gate", "w_in"): "gate_up_proj", ("b_gate", "b_in"): "gate_up_proj_bias"}
        return (
            *backbone(config),
            *renamed((f"{ours}.", f"{theirs}."), same, "sparse"),
            *(
                rule(
                    tuple(f"{ours}.experts.{name}" for name in pair),
                    f"{theirs}.experts.{name}",
                    Alternating(),
                    "sparse",
                )
                for pair, name in both.items()
            ),
        )

    def layout(self, names: frozenset[str]) -> Layout:
        return "fused"


GPT_OSS = GptOssFamily()


def _router(k: int) -> TopKRouter:
    """The softmax over one logit is 1, for which there is no router with a bias."""
    if k == 1:
        raise UserError("config.json: num_experts_per_tok = 1: must be at least 2 in a gpt_oss")
    return TopKRouter(k, "softmax_of_selected", bias=True)


def _windows(values: Read) -> dict[str, Any]:
    """The fields of windows, from the kind of each layer.

    Raises:
        UserError: it is of another kind, or a layer needs a window and there is none.
    """
    layers = values.whole("num_hidden_layers")
    kinds = values.value("layer_types", [WHOLE if i % 2 else WINDOW for i in range(layers)])
    known = isinstance(kinds, list) and all(kind in (WINDOW, WHOLE) for kind in kinds)
    if not known or len(kinds) != layers:
        raise UserError(
            f"config.json: layer_types = {kinds!r}: must be a list of {WINDOW} and {WHOLE}, one "
            f"for each of the {layers} layers"
        )
    values.value("sliding_window")
    if WINDOW not in kinds:
        return {}
    pattern = shortest([kind == WINDOW for kind in kinds])
    return {"window": values.whole("sliding_window"), "window_pattern": pattern}
