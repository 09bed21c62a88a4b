"""Small random models of the library, and gradients of a language loss."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

VOCABULARY, ROWS, LENGTH = 97, 3, 10
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "experts_implementation": "eager",
}


def mixtral(**other: object) -> nn.Module:
    return MixtralForCausalLM(
        MixtralConfig(intermediate_size=48, num_local_experts=6, **{**SHAPE, **other})
    )


def olmoe(**other: object) -> nn.Module:
    own = {"intermediate_size": 24, "num_experts": 8, "num_experts_per_tok": 3}
    return OlmoeForCausalLM(OlmoeConfig(**{**SHAPE, **own, **other}))


def qwen3_moe(**other: object) -> nn.Module:
    """Its first layer is dense."""
    own = {
        "intermediate_size": 48,
        "moe_intermediate_size": 24,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "mlp_only_layers": [0],
        "num_hidden_layers": 3,
    }
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**{**SHAPE, **own, **other}))


def deepseek_v3(**other: object) -> nn.Module:
    """Its first layer is dense; 8 experts in 4 groups, of which 2 are open."""
    return DeepseekV3ForCausalLM(
        DeepseekV3Config(
            intermediate_size=48,
            moe_intermediate_size=24,
            n_routed_experts=8,
            num_experts_per_tok=3,
            n_group=4,
            topk_group=2,
            first_k_dense_replace=1,
            kv_lora_rank=8,
            q_lora_rank=8,
            qk_rope_head_dim=8,
            qk_nope_head_dim=8,
            v_head_dim=16,
            **{**SHAPE, "num_hidden_layers": 3, **other},
        )
    )


def gpt_oss(**other: object) -> nn.Module:
    """Transposed matrices, biases, and gates that alternate with what they gate."""
    return GptOssForCausalLM(
        GptOssConfig(
            intermediate_size=24,
            num_local_experts=6,
            num_experts_per_tok=2,
            head_dim=16,
            **{**SHAPE, **other},
        )
    )


FAMILIES: dict[str, Callable[..., nn.Module]] = {
    "mixtral": mixtral,
    "olmoe": olmoe,
    "qwen3_moe": qwen3_moe,
    "deepseek_v3": deepseek_v3,
    "gpt_oss": gpt_oss,
}


def built(family: str, **other: object) -> nn.Module:
    """A model whose routing is decided and uneven, so that some experts have no token."""
    torch.manual_seed(0)
    model = FAMILIES[family](**other)
    generator = torch.Generator().manual_seed(1)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if "expert" in name or "bias" in name or ".gate." in name or ".router." in name:
            nn.init.normal_(tensor, std=0.2, generator=generator)
    return model


def text() -> tuple[Tensor, Tensor]:
    """Ids and mask [B, S]; rows are padded on the left by 0, 3 and 6 tokens."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(3, VOCABULARY, (ROWS, LENGTH), generator=generator)
    mask = torch.arange(LENGTH) >= 3 * torch.arange(ROWS).unsqueeze(1)
    return torch.where(mask, ids, 0), mask


def answer(model: nn.Module, *, autocast: bool = False) -> dict[str, Tensor]:
    """Logits of real tokens, and the gradient of every parameter of the language loss."""
    ids, mask = text()
    labels = torch.where(mask, ids, -100)
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = model(input_ids=ids, attention_mask=mask.long(), labels=labels)
    found.loss.backward()
    gradients = {
        name: torch.zeros_like(each) if each.grad is None else each.grad.clone()
        for name, each in model.named_parameters()
    }
    return {"logits": found.logits.detach()[mask], **gradients}


def apart(one: Tensor, other: Tensor) -> float:
    """The largest difference over the largest entry of the first."""
    scale = one.abs().max().double().item()
    return (one.double() - other.double()).abs().max().item() / (scale or 1.0)
