"""NLLB-MoE (2207.04672): M2M-100 with experts, as transformers keeps it."""

from collections.abc import Sequence
from typing import Any, final

from turnout.config.attention import AttentionConfig
from turnout.config.errors import UserError
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.initialisation import NormalInit
from turnout.config.model import EncoderDecoderConfig, ModelConfig
from turnout.config.moe import MoEConfig, Placement
from turnout.config.positions import Sinusoidal
from turnout.config.routers import TopKRouter
from turnout.convert.families.base import Family, Layout, Read
from turnout.convert.families.switch import router_parts
from turnout.convert.operations import Operation, Same, Stacked, StackedVectors
from turnout.convert.rules import Rule, Where, renamed, rule

EPSILON = 1e-5  # of torch's LayerNorm, which the configuration does not name
EMBEDDING = "model.shared.weight"
BOTH = ("weight", "bias")
IGNORED = {
    r"model\.(encoder|decoder)\.embed_positions\.weights": "sinusoids, which are computed",
}
COPIES = {
    r"model\.(encoder|decoder)\.embed_tokens\.weight": EMBEDDING,
    r"lm_head\.weight": EMBEDDING,
}
# Of training, or of drops in evaluation; the last is remarked on where it drops anything.
UNREAD = (
    *("encoder_layerdrop", "decoder_layerdrop", "activation_dropout", "expert_capacity"),
    *("router_ignore_padding_tokens", "batch_prioritized_routing", "init_std", "max_length"),
    "moe_eval_capacity_token_fraction",
)


@final
class NllbMoeFamily(Family):
    """Nothing is dropped. transformers' evaluation drops beyond a share of all tokens of a batch,
    padding counted, ``moe_eval_capacity_token_fraction``: nothing where that is 1, as published."""

    model_type = "nllb-moe"
    architectures = ("NllbMoeForConditionalGeneration",)
    ignored = IGNORED
    copies = COPIES
    kept = frozenset(UNREAD)

    def read(self, values: Read, names: frozenset[str]) -> ModelConfig:
        values.only("activation_function", "relu", why="the networks are rectified here")
        values.only("router_dtype", "float32", why="routers compute in float32 here")
        why = "transformers draws or declines second experts at random in evaluation too"
        values.only("second_expert_policy", "all", why=why)
        why = "transformers then has an embedding for each stack, and here they share one"
        values.only("tie_word_embeddings", True, why=why)
        for name in UNREAD:
            values.value(name)
        _remark(values)
        width, heads = values.whole("d_model"), _same(values, "attention_heads")
        values.value("num_hidden_layers")
        if width % heads:
            raise UserError(
                f"config.json: d_model = {width}: must be a multiple of the {heads} heads"
            )
        length = values.whole("max_position_embeddings", 1024)
        return EncoderDecoderConfig(
            vocab_size=values.whole("vocab_size"),
            d_model=width,
            encoder_layers=values.whole("encoder_layers"),
            decoder_layers=values.whole("decoder_layers"),
            attention=AttentionConfig(heads, width // heads, bias="all"),
            feed_forward=FeedForwardConfig(_same(values, "ffn_dim"), bias=True),
            moe=_moe(values),
            positions=Sinusoidal(offset=_offset(values)),
            initialisation=NormalInit(values.number("init_std", 0.02)),
            encoder_length=length,
            decoder_length=length,
            dropout=values.number("dropout", 0.1),
            norm_epsilon=EPSILON,
            norm="layer",
            scaled_embedding=values.flag("scale_embedding", True),
        )

    def write(self, config: ModelConfig) -> dict[str, Any] | None:
        if not isinstance(config, EncoderDecoderConfig):
            return None
        positions, moe, start = config.positions, config.moe, config.initialisation
        if not isinstance(positions, Sinusoidal) or not isinstance(start, NormalInit):
            return None
        if positions.offset < 1 or not config.tied:
            return None  # the place of padding comes before the first
        heads, width = config.attention.num_heads, config.feed_forward.d_ff
        step = 0 if moe is None else moe.placement.step
        return {
            "vocab_size": config.vocab_size,
            "d_model": config.d_model,
            "encoder_layers": config.encoder_layers,
            "decoder_layers": config.decoder_layers,
            "encoder_attention_heads": heads,
            "decoder_attention_heads": heads,
            "encoder_ffn_dim": width,
            "decoder_ffn_dim": width,
            "encoder_sparse_step": step,
            "decoder_sparse_step": step,
            "num_experts": 1 if moe is None else moe.num_experts,
            "moe_token_dropout": 0.0 if moe is None else moe.output_masking,
            "router_bias": router_parts(config) == BOTH,
            "router_dtype": "float32",
            "second_expert_policy": "all",
            "normalize_router_prob_before_dropping": moe is None or not moe.weights_after_drops,
            "moe_eval_capacity_token_fraction": 1.0,
            "activation_function": "relu",
            "dropout": config.dropout,
            "init_std": start.std,
            "scale_embedding": config.scaled_embedding,
            "tie_word_embeddings": True,
            "max_position_embeddings": max(config.encoder_length, config.decoder_length),
            "is_encoder_decoder": True,
            "pad_token_id": positions.offset - 1,
            "decoder_start_token_id": 2,
            "eos_token_id": 2,
        }

    def rules(self, config: ModelConfig, layout: Layout, names: frozenset[str]) -> Sequence[Rule]:
        ours, theirs = "{stack}.blocks.{layer}", "model.{stack}.layers.{layer}"
        found = [
            rule("embedding.weight", EMBEDDING, where="model"),
            *_pairs("{stack}.norm", "model.{stack}.layer_norm", "stack"),
            *_pairs(f"{ours}.self_attention.norm", f"{theirs}.self_attn_layer_norm"),
            *_attention(f"{ours}.self_attention", f"{theirs}.self_attn"),
            *_pairs(f"{ours}.feed_forward.norm", f"{theirs}.ff_layer_norm"),
            *_network(f"{ours}.feed_forward.network", f"{theirs}.ffn", Same(), Same(), "dense"),
            *_network(
                f"{ours}.feed_forward.moe.experts",
                f"{theirs}.ffn.experts.expert_{{expert}}",
                Stacked(),
                StackedVectors(),
                "sparse",
            ),
        ]
        for part in router_parts(config):
            router = f"{ours}.feed_forward.moe.router.{part}"
            found.append(rule(router, f"{theirs}.ffn.router.classifier.{part}", where="sparse"))
        across = (
            *_pairs(f"{ours}.cross_attention.norm", f"{theirs}.cross_attention_layer_norm"),
            *_attention(f"{ours}.cross_attention", f"{theirs}.cross_attention"),
        )
        found += [Rule(each.native, each.foreign, stacks=("decoder",)) for each in across]
        return found

    def layout(self, names: frozenset[str]) -> Layout:
        return "experts"


NLLB_MOE = NllbMoeFamily()


def _moe(values: Read) -> MoEConfig | None:
    """Experts in the last of every so many layers of both stacks; None for a step of 0."""
    steps = [values.value(f"{stack}_sparse_step", 4) for stack in ("encoder", "decoder")]
    if steps[0] != steps[1] or type(steps[0]) is not int:
        raise UserError(
            f"config.json: encoder_sparse_step, decoder_sparse_step = {steps[0]!r}, {steps[1]!r}: "
            "must be the same whole number in both stacks"
        )
    # Read whether there are experts or not, so that nothing is named as unknown.
    router = TopKRouter(2, "renormalised", bias=values.flag("router_bias"))
    before = values.flag("normalize_router_prob_before_dropping")
    masking = values.number("moe_token_dropout", 0.2)
    experts = values.whole("num_experts", 128)
    layers = max(values.whole("encoder_layers"), values.whole("decoder_layers"))
    if not 1 <= steps[0] <= layers:
        return None
    return MoEConfig(
        experts,
        router,
        placement=Placement(step=steps[0]),
        output_masking=masking,
        weights_after_drops=not before,
    )


def _offset(values: Read) -> int:
    """The first token stands behind the place of padding, as in fairseq."""
    padding = values.value("pad_token_id", 1)
    if type(padding) is not int or padding < 0:
        raise UserError(f"config.json: pad_token_id = {padding!r}: must be a whole number from 0")
    return padding + 1


def _same(values: Read, field: str) -> int:
    """A number that both stacks share.

    Raises:
        UserError: they do not.
    """
    encoder, decoder = (values.whole(f"{stack}_{field}") for stack in ("encoder", "decoder"))
    if encoder != decoder:
        raise UserError(
            f"config.json: decoder_{field} = {decoder}: must be encoder_{field}, {encoder}; both "
            "stacks have one shape here"
        )
    return encoder


def _remark(values: Read) -> None:
    share = values.value("moe_eval_capacity_token_fraction", 1.0)
    if share != 1:
        values.remark(
            f"moe_eval_capacity_token_fraction = {share!r}: transformers drops tokens beyond it, "
            "counted over a whole batch and its padding; here evaluation drops nothing"
        )


def _pairs(ours: str, theirs: str, where: Where = "every") -> list[Rule]:
    """Weight and bias."""
    return renamed((f"{ours}.", f"{theirs}."), {part: part for part in BOTH}, where)


def _attention(ours: str, theirs: str) -> list[Rule]:
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}
    return [
        each for a, b in names.items() for each in _pairs(f"{ours}.attention.{a}", f"{theirs}.{b}")
    ]


def _network(
    ours: str, theirs: str, matrix: Operation, vector: Operation, where: Where
) -> list[Rule]:
    """The two maps of a network, dense or stacked."""
    return [
        found
        for part, name in (("in", "fc1"), ("out", "fc2"))
        for found in (
            rule(f"{ours}.w_{part}", f"{theirs}.{name}.weight", matrix, where),
            rule(f"{ours}.b_{part}", f"{theirs}.{name}.bias", vector, where),
        )
    ]
