"""Small random models of transformers, several shapes a family."""

from pathlib import Path
from typing import Any

import torch
import transformers

from tests.convert.shapes import (
    DECODER,
    DEEPSEEK,
    DEEPSEEK_V2,
    GATED,
    GROUPS,
    NLLB,
    OSS,
    QWEN,
    SWITCH,
    T5,
    VOCABULARY,
)
from turnout.data.batch import Batch
from turnout.generate.prompts import batch_of, stream_of

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

# Class, fields of its configuration. Odd numbers of experts, heads wider than the model, grouped
# queries, dense first layers, shared experts, tied and untied heads.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "t5": ("T5", {**T5, "num_heads": 2}),
    "t5, wide heads": ("T5", {**T5, "num_heads": 6, "num_decoder_layers": 3}),
    "t5 1.1": ("T5", {**T5, "num_heads": 2, **GATED}),
    "mt5": ("MT5", {**T5, "num_heads": 3, **GATED}),
    "switch": ("SwitchTransformers", {**T5, "num_heads": 2, "num_experts": 3, **SWITCH}),
    "switch, all sparse": (
        "SwitchTransformers",
        {
            **T5,
            "num_heads": 4,
            "num_experts": 8,
            "num_decoder_layers": 3,
            "num_sparse_encoder_layers": 2,
            "num_sparse_decoder_layers": 3,
        },
    ),
    "mixtral": ("Mixtral", {**DECODER, "num_local_experts": 3}),
    "mixtral, grouped": (
        "Mixtral",
        {**DECODER, "num_key_value_heads": 2, "num_local_experts": 8, "head_dim": 6},
    ),
    "olmoe": ("Olmoe", {**DECODER, "num_experts": 7, "num_experts_per_tok": 3}),
    "olmoe, renormalised": (
        "Olmoe",
        {
            **DECODER,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "norm_topk_prob": True,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
        },
    ),
    "qwen2_moe": ("Qwen2Moe", {**DECODER, **QWEN, "shared_expert_intermediate_size": 16}),
    "qwen2_moe, dense first": (
        "Qwen2Moe",
        {
            **DECODER,
            "num_hidden_layers": 3,
            "num_key_value_heads": 2,
            **QWEN,
            "shared_expert_intermediate_size": 8,
            "mlp_only_layers": [0],
            "qkv_bias": False,
        },
    ),
    "qwen3_moe": ("Qwen3Moe", {**DECODER, **QWEN, "norm_topk_prob": True, "head_dim": 8}),
    "qwen3_moe, dense first": (
        "Qwen3Moe",
        {
            **DECODER,
            "num_hidden_layers": 3,
            "num_key_value_heads": 1,
            **QWEN,
            "mlp_only_layers": [0],
            "tie_word_embeddings": True,
        },
    ),
    "qwen3_moe, every other": (
        "Qwen3Moe",
        {**DECODER, "num_hidden_layers": 4, **QWEN, "decoder_sparse_step": 2},
    ),
    "granitemoe": (
        "GraniteMoe",
        {
            **DECODER,
            "num_key_value_heads": 2,
            "num_local_experts": 5,
            "embedding_multiplier": 12.0,
            "attention_multiplier": 0.3,
            "residual_multiplier": 0.22,
            "logits_scaling": 6.0,
            "tie_word_embeddings": True,
        },
    ),
    "mixtral, yarn": (
        "Mixtral",
        {
            **DECODER,
            "num_local_experts": 3,
            "head_dim": 4,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 100.0,
                "factor": 4.0,
                "original_max_position_embeddings": 16,
            },
        },
    ),
    "deepseek_v3": ("DeepseekV3", {**DEEPSEEK, "q_lora_rank": 6}),
    "deepseek_v3, yarn": (
        "DeepseekV3",
        {
            **DEEPSEEK,
            "q_lora_rank": None,
            "rope_interleave": False,
            "n_shared_experts": 2,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 100.0,
                "factor": 4.0,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "original_max_position_embeddings": 16,
            },
        },
    ),
    "deepseek_v2": ("DeepseekV2", {**DEEPSEEK_V2, "q_lora_rank": None}),
    "deepseek_v2, groups": (
        "DeepseekV2",
        {
            **DEEPSEEK_V2,
            **GROUPS,
            "q_lora_rank": 6,
            "num_hidden_layers": 4,
            "first_k_dense_replace": 2,
            "tie_word_embeddings": True,
        },
    ),
    "deepseek_v2, yarn": (
        "DeepseekV2",
        {
            **DEEPSEEK_V2,
            **GROUPS,
            "q_lora_rank": 3,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "first_k_dense_replace": 0,
            "n_routed_experts": 8,
            "n_group": 8,
            "topk_group": 3,
            "num_experts_per_tok": 2,
            "n_shared_experts": 1,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 100.0,
                "factor": 4.0,
                "mscale": 0.707,
                "mscale_all_dim": 0.707,
                "original_max_position_embeddings": 16,
            },
        },
    ),
    # Windows of 3, 12 and 64 tokens for texts of 9 and of 38; the usual YaRN, another, and none.
    "gpt_oss": ("GptOss", {**DECODER, **OSS, "num_local_experts": 5, "num_key_value_heads": 2}),
    "gpt_oss, tied": (
        "GptOss",
        {
            **DECODER,
            **OSS,
            "num_hidden_layers": 3,
            "num_local_experts": 7,
            "num_experts_per_tok": 3,
            "num_key_value_heads": 1,
            "head_dim": 6,
            "sliding_window": 12,
            "layer_types": ["full_attention", "full_attention", "sliding_attention"],
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 100.0,
                "factor": 4.0,
                "truncate": False,
                "original_max_position_embeddings": 16,
            },
        },
    ),
    "gpt_oss, wide windows": (
        "GptOss",
        {
            **DECODER,
            **OSS,
            "num_local_experts": 2,
            "sliding_window": 64,
            "layer_types": ["sliding_attention"] * 2,
            "attention_bias": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        },
    ),
    "gpt_oss, no windows": (
        "GptOss",
        {**DECODER, **OSS, "num_local_experts": 3, "layer_types": ["full_attention"] * 2},
    ),
    "nllb-moe": ("NllbMoe", NLLB),
    "nllb-moe, all sparse": (
        "NllbMoe",
        {
            **NLLB,
            "decoder_layers": 3,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_sparse_step": 1,
            "decoder_sparse_step": 1,
            "num_experts": 8,
            "router_bias": True,
            "normalize_router_prob_before_dropping": True,
            "batch_prioritized_routing": True,
            "moe_token_dropout": 0.0,
        },
    ),
    "nllb-moe, odd": (
        "NllbMoe",
        {
            **NLLB,
            "d_model": 15,
            "encoder_attention_heads": 3,
            "decoder_attention_heads": 3,
            "encoder_layers": 4,
            "decoder_layers": 3,
            "encoder_sparse_step": 3,
            "decoder_sparse_step": 3,
            "num_experts": 5,
            "moe_token_dropout": 0.4,
            "scale_embedding": False,
            "router_ignore_padding_tokens": True,
        },
    ),
    "nllb-moe, dense": (
        "NllbMoe",
        {**NLLB, "encoder_sparse_step": 0, "decoder_sparse_step": 0},
    ),
    "granitemoe, untied": ("GraniteMoe", {**DECODER, "num_local_experts": 2}),
}


def random_model(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """The model of a case, in evaluation mode, every weight drawn, norms around one."""
    kind, fields = CASES[name]
    two = kind in ("T5", "MT5", "SwitchTransformers", "NllbMoe")
    suffix = "ForConditionalGeneration" if two else "ForCausalLM"
    torch.manual_seed(0)
    model = getattr(transformers, kind + suffix)(getattr(transformers, f"{kind}Config")(**fields))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            around_one = parameter.dim() == 1 and not name.endswith((".bias", ".sinks"))
            parameter.copy_(1 + 0.1 * drawn if around_one else _spread(kind, name) * drawn)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
        if kind == "NllbMoe":  # as initialised and trained: padding is never chosen
            model.model.shared.weight[model.config.pad_token_id] = 0.0
    return with_its_experts(model.to(dtype).eval())


def with_its_experts(model: Any) -> Any:
    """Of transformers 5.23's NLLB-MoE, which mistakes a mask of experts for their numbers and uses
    experts 0 and 1 alone, the model that its router means; others as they are."""
    for module in model.modules():
        if type(module).__name__ == "NllbMoeExperts":
            module.register_forward_pre_hook(_numbered)
    return model


def _numbered(module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    rows, _, weights = inputs
    best = weights.topk(2, dim=1)
    return rows, best.indices, best.values


def saved(name: str, folder: Path, **words: Any) -> Path:
    """The folder of a case's model, as transformers writes it."""
    model = random_model(name, words.pop("dtype", torch.float32))
    model.save_pretrained(folder, **words)
    return folder


def reload(name: str, folder: Path) -> Any:
    """The model of a folder, by transformers."""
    cls = type(random_model(name))
    return with_its_experts(cls.from_pretrained(folder, dtype=torch.float32).eval())


def text(
    lengths: list[int], width: int, side: str, seed: int = 0, padding: int = 0
) -> tuple[torch.Tensor, ...]:
    """Random ids and a mask, padded on one side."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, VOCABULARY, (len(lengths), width), generator=generator)
    slot, length = torch.arange(width), torch.tensor(lengths).unsqueeze(1)
    mask = slot < length if side == "right" else slot >= width - length
    return torch.where(mask, ids, padding), mask


@torch.no_grad()
def theirs(model: Any, ids: torch.Tensor, mask: torch.Tensor, answer: torch.Tensor) -> torch.Tensor:
    """Logits of transformers: of the row, or of ``answer`` where there is an encoder."""
    words = {"input_ids": ids, "attention_mask": mask.long()}
    if model.config.is_encoder_decoder:
        words["decoder_input_ids"] = answer
    logits: torch.Tensor = model(**words).logits
    return logits


@torch.no_grad()
def ours(model: Any, ids: torch.Tensor, mask: torch.Tensor, answer: torch.Tensor) -> torch.Tensor:
    """Logits of our model of the same."""
    batch: Batch = batch_of(_stream(ids, mask))
    if len(model.stacks()) > 1:
        whole = torch.ones_like(answer, dtype=torch.bool)
        batch = batch_of(_stream(answer, whole), _stream(ids, mask))
    output = model(batch)
    logits: torch.Tensor = output.head.logits(output.hidden)
    return logits


def _stream(ids: torch.Tensor, mask: torch.Tensor) -> Any:
    return stream_of(ids, mask, (mask.long().cumsum(1) - 1).clamp(min=0))


def _spread(kind: str, name: str) -> float:
    """So wide for gpt-oss's gates that its clamps at 7 have something to do."""
    return 2.0 if kind == "GptOss" and name.endswith("gate_up_proj") else 0.3
