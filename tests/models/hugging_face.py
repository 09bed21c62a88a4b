"""Small random models of transformers, and their weights in ours, name by name."""

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from tests.models.cases import VOCABULARY, batch_of, stream
from turnout.config.model import DecoderOnlyConfig
from turnout.models import Model, build

# The shape of tests.models.cases.MODERN under their names.
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "pad_token_id": None,
    "tie_word_embeddings": False,
    "attn_implementation": "eager",
    "experts_implementation": "eager",
}
STACK = {
    "embedding.weight": "model.embed_tokens.weight",
    "decoder.norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}
BLOCK = {
    "self_attention.norm": "input_layernorm",
    "self_attention.attention.query.": "self_attn.q_proj.",
    "self_attention.attention.key.": "self_attn.k_proj.",
    "self_attention.attention.value.": "self_attn.v_proj.",
    "self_attention.attention.out.": "self_attn.o_proj.",
    "self_attention.attention.query_norm": "self_attn.q_norm",
    "self_attention.attention.key_norm": "self_attn.k_norm",
    "self_attention.attention.query_down.": "self_attn.q_a_proj.",
    "self_attention.attention.latent.": "self_attn.kv_a_proj_with_mqa.",
    "self_attention.attention.latent_norm": "self_attn.kv_a_layernorm",
    "self_attention.attention.key_value.": "self_attn.kv_b_proj.",
    "self_attention.attention.sinks": "self_attn.sinks",
    "feed_forward.norm": "post_attention_layernorm",
    "feed_forward.network.w_in": "mlp.up_proj.weight",
    "feed_forward.network.w_gate": "mlp.gate_proj.weight",
    "feed_forward.network.w_out": "mlp.down_proj.weight",
}


def random_model(kind: type[PreTrainedModel], config: PretrainedConfig) -> PreTrainedModel:
    """A model whose every parameter is random: norms around 1, biases too."""
    model = kind(config).eval()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        mean = 1.0 if "norm" in name else 0.0
        nn.init.normal_(parameter, mean, 0.3, generator=generator)
    return model


# Latent attention whose queries come through a latent too.
QUERY_LATENT = {
    "self_attention.attention.query.": "self_attn.q_b_proj.",
    "self_attention.attention.query_norm": "self_attn.q_a_layernorm",
}


def theirs_of(name: str, block: dict[str, str]) -> str:
    """Their name of one of our dense parameters."""
    if name in STACK:
        return STACK[name]
    _, _, layer, rest = name.split(".", 3)
    for ours, theirs in block.items():
        if rest.startswith(ours):
            return f"model.layers.{layer}.{theirs}{rest.removeprefix(ours)}"
    raise KeyError(name)


@torch.no_grad()
def with_weights(
    config: DecoderOnlyConfig, weights: dict[str, Tensor], others: dict[str, Tensor]
) -> Model:
    """Our model with their weights; ``others`` are under our names. None may be left."""
    model = build(config).eval()
    names = [name for name, _ in model.named_parameters() if name not in others]
    through_latent = any("query_down" in name for name in names)
    block = BLOCK | QUERY_LATENT if through_latent else BLOCK
    renamed = {name: theirs_of(name, block) for name in names}
    assert set(renamed.values()) == set(weights)
    given = {name: weights[theirs] for name, theirs in renamed.items()} | others
    model.load_state_dict(given)
    return model


@torch.no_grad()
def assert_same_logits(
    ours: Model, theirs: PreTrainedModel, *, lengths: tuple[int, ...] = (16, 9, 12), width: int = 16
) -> None:
    """Equal to 1e-4 in float32, for rows padded on either side."""
    for side in ("left", "right"):
        rows = stream(list(lengths), width, side=side)
        got = ours(batch_of(rows))
        expected = theirs(
            input_ids=rows.ids,
            attention_mask=rows.mask.long(),
            position_ids=rows.position,
            use_cache=False,
        ).logits
        logits = got.head.logits(got.hidden)
        assert expected[rows.mask].std() > 0.3, "logits that hardly differ would prove nothing"
        torch.testing.assert_close(logits[rows.mask], expected[rows.mask], atol=1e-4, rtol=1e-4)
