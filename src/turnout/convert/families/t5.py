"""T5 1.0 and 1.1, and mT5 (1910.10683, 2010.11934)."""

from collections.abc import Sequence
from typing import Any, final

from turnout.config.attention import AttentionConfig
from turnout.config.errors import UserError
from turnout.config.feed_forward import Activation, FeedForwardConfig
from turnout.config.model import EncoderDecoderConfig, ModelConfig
from turnout.config.moe import MoEConfig
from turnout.config.positions import RelativeBias
from turnout.convert.families.base import Family, Layout, Read
from turnout.convert.rules import Rule, Where, renamed, rule

ACTIVATIONS: dict[str, Activation] = {"relu": "relu", "gated-gelu": "geglu"}
COPIES = {
    r"(encoder|decoder)\.embed_tokens\.weight": "shared.weight",
    r"lm_head\.weight": "shared.weight",  # where it is not a head of its own
}
SUBLAYERS = {"encoder": "layer.1", "decoder": "layer.2"}
EMBEDDING, HEAD = "shared.weight", "lm_head.weight"
IGNORED = {
    r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight": (
        "cross-attention has no position bias; old checkpoints carry one that nothing reads"
    ),
}


@final
class T5Family(Family):
    """T5, whose logits are scaled where the embedding serves as the head, and mT5, which never
    scales them."""

    ignored = IGNORED
    copies = COPIES

    def __init__(self, model_type: str, architecture: str) -> None:
        self.model_type = model_type
        self.architectures = (architecture,)

    def read(self, values: Read, names: frozenset[str]) -> ModelConfig:
        tied = values.flag("tie_word_embeddings", True)
        scaled = values.flag("scale_decoder_outputs", tied) and self.model_type == "t5"
        return encoder_decoder(values, values.value("feed_forward_proj", "relu"), None, scaled)

    def write(self, config: ModelConfig) -> dict[str, Any] | None:
        if not isinstance(config, EncoderDecoderConfig) or config.moe is not None:
            return None
        word = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
        found = fields(config)
        if found is None or config.feed_forward.activation not in word:
            return None
        if config.tied and self.model_type == "mt5":
            return None
        return {**found, "feed_forward_proj": word[config.feed_forward.activation]}

    def rules(self, config: ModelConfig, layout: Layout, names: frozenset[str]) -> Sequence[Rule]:
        return (*backbone(config, names), *network("DenseReluDense", config, "every"))

    def layout(self, names: frozenset[str]) -> Layout:
        return "experts"


T5 = T5Family("t5", "T5ForConditionalGeneration")
MT5 = T5Family("mt5", "MT5ForConditionalGeneration")


def encoder_decoder(
    values: Read, activation: str, moe: MoEConfig | None, scaled: bool
) -> EncoderDecoderConfig:
    """The model that the fields T5 and its kin share describe.

    A head that is the embedding without the scaling is a head of its own to us.
    """
    if activation not in ACTIVATIONS:
        raise UserError(
            f"config.json: feed_forward_proj = {activation!r}: must be one of "
            f"{', '.join(ACTIVATIONS)}"
        )
    layers = values.whole("num_layers")
    return EncoderDecoderConfig(
        vocab_size=values.whole("vocab_size"),
        d_model=values.whole("d_model"),
        encoder_layers=layers,
        decoder_layers=values.whole("num_decoder_layers", layers),
        attention=AttentionConfig(values.whole("num_heads"), values.whole("d_kv"), scaled=False),
        feed_forward=FeedForwardConfig(values.whole("d_ff"), ACTIVATIONS[activation]),
        moe=moe,
        positions=RelativeBias(
            values.whole("relative_attention_num_buckets", 32),
            values.whole("relative_attention_max_distance", 128),
        ),
        dropout=values.number("dropout_rate", 0.1),
        tied=scaled,
        norm_epsilon=values.number("layer_norm_epsilon", 1e-6),
    )


def fields(config: EncoderDecoderConfig) -> dict[str, Any] | None:
    """The shared fields of a configuration; None where they cannot say what it is."""
    attention, positions = config.attention, config.positions
    if not isinstance(positions, RelativeBias):
        return None
    plain = not attention.scaled and attention.qk_norm == "none"
    whole = attention.kv_heads == attention.num_heads and not positions.per_layer
    if not plain or not whole or config.feed_forward.bias or config.initialisation.kind != "fan_in":
        return None
    return {
        "vocab_size": config.vocab_size,
        "d_model": config.d_model,
        "num_layers": config.encoder_layers,
        "num_decoder_layers": config.decoder_layers,
        "num_heads": attention.num_heads,
        "d_kv": attention.head_dim,
        "d_ff": config.feed_forward.d_ff,
        "relative_attention_num_buckets": positions.num_buckets,
        "relative_attention_max_distance": positions.max_distance,
        "dropout_rate": config.dropout,
        "layer_norm_epsilon": config.norm_epsilon,
        "tie_word_embeddings": config.tied,
        "is_encoder_decoder": True,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }


def backbone(config: ModelConfig, names: frozenset[str]) -> list[Rule]:
    """Embedding, attention, norms and head."""
    attention = {f"{ours}.weight": f"{theirs}.weight" for ours, theirs in _PROJECTIONS.items()}
    block, theirs = "{stack}.blocks.{layer}", "{stack}.block.{layer}"
    found = [
        rule("embedding.weight", EMBEDDING, where="model"),
        rule(
            "{stack}.position_bias.weight",
            "{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            where="stack",
        ),
        rule("{stack}.norm.weight", "{stack}.final_layer_norm.weight", where="stack"),
        rule(f"{block}.self_attention.norm.weight", f"{theirs}.layer.0.layer_norm.weight"),
        *renamed(
            (f"{block}.self_attention.attention.", f"{theirs}.layer.0.SelfAttention."),
            attention,
            "every",
        ),
    ]
    for ours, name in attention.items():
        found.append(
            rule(
                f"{block}.cross_attention.attention.{ours}",
                f"{theirs}.layer.1.EncDecAttention.{name}",
                stacks=("decoder",),
            )
        )
    found.append(
        rule(
            f"{block}.cross_attention.norm.weight",
            f"{theirs}.layer.1.layer_norm.weight",
            stacks=("decoder",),
        )
    )
    for stack, sublayer in SUBLAYERS.items():
        norm = f"{block}.feed_forward.norm.weight"
        found.append(rule(norm, f"{theirs}.{sublayer}.layer_norm.weight", stacks=(stack,)))
    if not config.tied:
        head = EMBEDDING if names and HEAD not in names else HEAD
        found.append(rule("head.weight", head, where="model"))
    return found


def network(name: str, config: ModelConfig, where: Where) -> list[Rule]:
    """The dense networks; ``name`` is theirs for it."""
    return [
        Rule(
            (f"{{stack}}.blocks.{{layer}}.feed_forward.network.{ours}",),
            (f"{{stack}}.block.{{layer}}.{sublayer}.{name}.{theirs}.weight",),
            where=where,
            stacks=(stack,),
        )
        for stack, sublayer in SUBLAYERS.items()
        for ours, theirs in matrices(config.feed_forward).items()
    ]


def matrices(feed_forward: FeedForwardConfig) -> dict[str, str]:
    """Our matrices of a network and their names."""
    if feed_forward.gated:
        return {"w_gate": "wi_0", "w_in": "wi_1", "w_out": "wo"}
    return {"w_in": "wi", "w_out": "wo"}


_PROJECTIONS = {"query": "q", "key": "k", "value": "v", "out": "o"}
