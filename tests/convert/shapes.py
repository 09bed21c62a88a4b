"""Fields that the shapes of a family share, as transformers names them."""

VOCABULARY = 60
T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 24,
    "num_layers": 2,
    "decoder_start_token_id": 0,
}
DECODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "eos_token_id": None,
    "bos_token_id": None,
}
GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
QWEN = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
OSS = {"head_dim": 4, "num_experts_per_tok": 2, "sliding_window": 3}
SWITCH = {"num_decoder_layers": 2, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1}

DEEPSEEK = {
    **DECODER,
    "num_hidden_layers": 3,
    "n_routed_experts": 8,
    "moe_intermediate_size": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "kv_lora_rank": 5,
    "qk_nope_head_dim": 4,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "first_k_dense_replace": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
}

DEEPSEEK_V2 = {
    **DEEPSEEK,
    "kv_lora_rank": 10,  # transformers looks at pairs of latents and rotated parts: not an odd one
    "n_routed_experts": 7,
    "n_shared_experts": 2,
    "n_group": None,
    "topk_group": None,
    "norm_topk_prob": False,
    "topk_method": "greedy",
}
GROUPS = {
    "topk_method": "group_limited_greedy",
    "n_routed_experts": 9,
    "num_experts_per_tok": 4,
    "n_group": 3,
    "topk_group": 2,
    "routed_scaling_factor": 16.0,
}

NLLB = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_sparse_step": 2,
    "decoder_sparse_step": 2,
    "num_experts": 3,
    "max_position_embeddings": 64,
}
