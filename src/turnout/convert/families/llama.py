"""What decoders with rotary positions, RMSNorm and SwiGLU have in common."""

from typing import Any

from turnout.config.attention import AttentionConfig
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.model import DecoderOnlyConfig, ModelConfig
from turnout.config.moe import MoEConfig
from turnout.config.positions import Rotary
from turnout.convert.families.base import Layout, Read
from turnout.convert.families.rotary import read_rotary, write_rotary
from turnout.convert.operations import GateUp, Operation, Stacked, Transposed
from turnout.convert.rules import Rule, renamed, rule

BLOCK, THEIRS = "decoder.blocks.{layer}", "model.layers.{layer}"
COPIES = {r"lm_head\.weight": "model.embed_tokens.weight"}  # where it is not a head of its own
IGNORED = {r".*\.rotary_emb\.inv_freq": "the angles of rotary positions, which are computed"}


def decoder_only(
    values: Read, attention: AttentionConfig, d_ff: int, moe: MoEConfig
) -> DecoderOnlyConfig:
    """The model that the fields these families share describe."""
    values.only("hidden_act", "silu", why="the networks are SwiGLU here")
    return DecoderOnlyConfig(
        vocab_size=values.whole("vocab_size"),
        d_model=values.whole("hidden_size"),
        num_layers=values.whole("num_hidden_layers"),
        attention=attention,
        feed_forward=FeedForwardConfig(d_ff, "swiglu"),
        moe=moe,
        positions=read_rotary(values),
        length=values.whole("max_position_embeddings", 4096),
        tied=values.flag("tie_word_embeddings"),
        norm_epsilon=values.number("rms_norm_eps", 1e-6),
    )


def heads(values: Read, qk_norm: Any = "none", bias: Any = "none") -> AttentionConfig:
    """Grouped-query attention."""
    number = values.whole("num_attention_heads")
    return AttentionConfig(
        number,
        values.whole("head_dim", max(values.whole("hidden_size") // number, 1)),
        values.whole("num_key_value_heads", number),
        qk_norm=qk_norm,
        bias=bias,
    )


def fields(config: ModelConfig, qk_norm: str) -> dict[str, Any] | None:
    """The shared fields of a configuration; None where they cannot say what it is."""
    attention, network = config.attention, config.feed_forward
    if isinstance(attention, AttentionConfig) and (attention.sinks or attention.window):
        return None
    plain = network.activation == "swiglu" and not network.bias and network.hidden_bias == "none"
    return shared_fields(config, qk_norm) if plain else None


def shared_fields(config: ModelConfig, qk_norm: str) -> dict[str, Any] | None:
    """The same, whatever the networks, windows and sinks."""
    if not isinstance(config, DecoderOnlyConfig) or not isinstance(config.positions, Rotary):
        return None
    attention, moe = config.attention, config.moe
    if not isinstance(attention, AttentionConfig) or not attention.scaled or moe is None:
        return None
    if attention.qk_norm != qk_norm:
        return None
    if moe.extra_ffn or moe.in_attention or moe.pyramid or moe.decoder_router is not None:
        return None
    if config.tied and config.initialisation.kind == "fan_in":
        return None  # whose logits are scaled
    if config.positions.interleaved or config.positions.share != 1:
        return None
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": attention.kv_heads,
        "head_dim": attention.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.length,
        **write_rotary(config.positions),
        "rms_norm_eps": config.norm_epsilon,
        "tie_word_embeddings": config.tied,
    }


def backbone(config: ModelConfig) -> list[Rule]:
    """Embedding, attention, norms, head, and dense networks where there are any."""
    attention, found = config.attention, outer(config)
    assert isinstance(attention, AttentionConfig)
    at = f"{BLOCK}.self_attention.attention.", f"{THEIRS}.self_attn."
    names = {f"{a}.weight": f"{b}.weight" for a, b in _attention(attention).items()}
    biased = list(PROJECTIONS.items())[: {"none": 0, "qkv": 3, "all": 4}[attention.bias]]
    names |= {f"{ours}.bias": f"{theirs}.bias" for ours, theirs in biased}
    if attention.sinks:
        names["sinks"] = "sinks"
    return found + renamed(at, names, "every")


def outer(config: ModelConfig) -> list[Rule]:
    """The same without attention."""
    found = [
        rule("embedding.weight", "model.embed_tokens.weight", where="model"),
        rule("decoder.norm.weight", "model.norm.weight", where="model"),
        rule(f"{BLOCK}.self_attention.norm.weight", f"{THEIRS}.input_layernorm.weight"),
        rule(f"{BLOCK}.feed_forward.norm.weight", f"{THEIRS}.post_attention_layernorm.weight"),
        *renamed(
            (f"{BLOCK}.feed_forward.network.", f"{THEIRS}.mlp."),
            {ours: f"{theirs}.weight" for ours, theirs in NETWORK.items()},
            "dense",
        ),
    ]
    if not config.tied:
        found.append(rule("head.weight", "lm_head.weight", where="model"))
    return found


def experts(layout: Layout, prefix: str, words: dict[str, str]) -> list[Rule]:
    """The experts below ``prefix``; ``words`` are their names of our matrices, an expert each."""
    ours = f"{BLOCK}.feed_forward.moe.experts"
    if layout == "experts":
        return [
            Rule((f"{ours}.{a}",), (f"{prefix}.{{expert}}.{b}.weight",), Stacked(), "sparse")
            for a, b in words.items()
        ]
    return fused(f"{prefix}.gate_up_proj", f"{prefix}.down_proj")


def fused(gate_up: str, down: str, turn: Operation | None = None) -> list[Rule]:
    """Experts in two tensors."""
    ours = f"{BLOCK}.feed_forward.moe.experts"
    return [
        Rule((f"{ours}.w_gate", f"{ours}.w_in"), (gate_up,), GateUp(), "sparse"),
        Rule((f"{ours}.w_out",), (down,), turn or Transposed(), "sparse"),
    ]


def layout_of(names: frozenset[str]) -> Layout:
    """Fused where there is a tensor of all experts."""
    return "fused" if any(name.endswith(".experts.down_proj") for name in names) else "experts"


def _attention(attention: AttentionConfig) -> dict[str, str]:
    return PROJECTIONS if attention.qk_norm == "none" else {**PROJECTIONS, **NORMS}


PROJECTIONS = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "o_proj"}
NORMS = {"query_norm": "q_norm", "key_norm": "k_norm"}
NETWORK = {"w_gate": "gate_proj", "w_in": "up_proj", "w_out": "down_proj"}
