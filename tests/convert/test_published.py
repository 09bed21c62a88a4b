"""Miniatures in the names and settings in which families were published, written here."""

import json

import pytest
import torch
from safetensors.torch import save_file

import turnout
from tests.convert.cases import ours, random_model, text, theirs
from tests.convert.shapes import VOCABULARY
from tests.convert.test_families import ANSWER
from turnout.config.errors import UserError
from turnout.config.routers import TopKRouter
from turnout.convert.conversion import to_foreign, to_native
from turnout.convert.folder import open_foreign
from turnout.convert.mapping import map_foreign
from turnout.convert.native import open_native


def write(folder, config, tensors):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / NAME)
    return folder


NAME = "model.safetensors"
DEEPSEEK = {
    "architectures": ["DeepseekForCausalLM"],
    "auto_map": {"AutoModelForCausalLM": "modeling_deepseek.DeepseekForCausalLM"},
    "model_type": "deepseek",
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "moe_intermediate_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "n_shared_experts": 2,
    "n_routed_experts": 5,
    "num_experts_per_tok": 2,
    "moe_layer_freq": 1,
    "first_k_dense_replace": 1,
    "norm_topk_prob": False,
    "scoring_func": "softmax",
    "aux_loss_alpha": 0.001,
    "seq_aux": True,
    "hidden_act": "silu",
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "attention_bias": False,
    "tie_word_embeddings": False,
    "pretraining_tp": 1,
    "torch_dtype": "bfloat16",
}


def deepseek_tensors():
    """As deepseek-moe-16b-base names them: layer 0 dense, the others sparse."""
    generator = torch.Generator().manual_seed(3)

    def drawn(*shape):
        return 0.3 * torch.randn(*shape, generator=generator)

    def network(prefix, width):
        return {
            f"{prefix}.gate_proj.weight": drawn(width, 16),
            f"{prefix}.up_proj.weight": drawn(width, 16),
            f"{prefix}.down_proj.weight": drawn(16, width),
        }

    found = {"model.embed_tokens.weight": drawn(VOCABULARY, 16)}
    for layer in range(3):
        at = f"model.layers.{layer}"
        for name in ("q", "k", "v", "o"):
            found[f"{at}.self_attn.{name}_proj.weight"] = drawn(16, 16)
        found[f"{at}.self_attn.rotary_emb.inv_freq"] = torch.ones(2)
        found[f"{at}.input_layernorm.weight"] = 1 + drawn(16)
        found[f"{at}.post_attention_layernorm.weight"] = 1 + drawn(16)
        if layer == 0:
            found |= network(f"{at}.mlp", 24)
            continue
        found[f"{at}.mlp.gate.weight"] = drawn(5, 16)
        found |= network(f"{at}.mlp.shared_experts", 16)
        for expert in range(5):
            found |= network(f"{at}.mlp.experts.{expert}", 8)
    return found | {"model.norm.weight": 1 + drawn(16), "lm_head.weight": drawn(VOCABULARY, 16)}


def test_deepseek_moe_against_qwen2s_class(tmp_path):
    """Qwen2-MoE is DeepSeekMoE with a gate on the shared expert: at a gate of zero that is a half,
    which a doubled down projection makes good."""
    tensors = deepseek_tensors()
    folder = write(tmp_path / "hf", DEEPSEEK, tensors)
    model = turnout.load(folder)
    assert model.config.moe.router == TopKRouter(2, "raw")
    notes = map_foreign(open_foreign(folder)).notes
    assert len(notes) == 3 and all("inv_freq: left out" in note for note in notes)

    twin = random_model("qwen2_moe")
    config = type(twin.config)(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        num_experts=5,
        num_experts_per_tok=2,
        moe_intermediate_size=8,
        shared_expert_intermediate_size=16,
        mlp_only_layers=[0],
        qkv_bias=False,
        max_position_embeddings=64,
    )
    renamed = {
        name.replace("shared_experts", "shared_expert"): tensor * (2 if _doubled(name) else 1)
        for name, tensor in tensors.items()
        if "inv_freq" not in name
    }
    for layer in (1, 2):
        renamed[f"model.layers.{layer}.mlp.shared_expert_gate.weight"] = torch.zeros(1, 16)
    twin_folder = write(tmp_path / "twin", json.loads(config.to_json_string()), renamed)
    ids, mask = text([9, 4, 6], 9, "left")
    expected = theirs(type(twin).from_pretrained(twin_folder).eval(), ids, mask, ANSWER)
    found = ours(model, ids, mask, ANSWER)
    assert float((found - expected)[mask].abs().max()) <= 1e-4


def _doubled(name):
    return "shared_experts.down_proj" in name


def test_deepseek_moe_there_and_back(tmp_path):
    tensors = {name: tensor.bfloat16() for name, tensor in deepseek_tensors().items()}
    folder = write(tmp_path / "hf", DEEPSEEK, tensors)
    foreign = open_foreign(folder)
    to_native(foreign, map_foreign(foreign), tmp_path / "run")
    to_foreign(open_native(tmp_path / "run"), tmp_path / "back")
    back = open_foreign(tmp_path / "back")
    assert {name for name in tensors if "inv_freq" not in name} == back.names
    assert all(torch.equal(back.read(name), tensors[name]) for name in back.names)
    assert {**back.config, **DEEPSEEK, "rope_scaling": None} == dict(back.config) | {
        "rope_scaling": None
    }


def as_old_t5(model):
    """T5 as it was first published: every tied tensor written out, and a table nobody reads."""
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    table = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    return tensors | {table: torch.zeros(32, model.config.num_heads)}


def test_t5_with_every_copy_written_out(tmp_path):
    model = random_model("t5")
    config = {**model.config.to_dict(), "architectures": ["T5ForConditionalGeneration"]}
    folder = write(tmp_path / "hf", config, as_old_t5(model))
    notes = map_foreign(open_foreign(folder)).notes
    assert len(notes) == 1 and "cross-attention has no position bias" in notes[0]
    ids, mask = text([9, 4, 6], 9, "right")
    found = ours(turnout.load(folder), ids, mask, ANSWER)
    assert float((found - theirs(model, ids, mask, ANSWER)).abs().max()) <= 1e-4


def test_a_copy_that_is_none_is_refused(tmp_path):
    model = random_model("t5")
    tensors = as_old_t5(model)
    tensors["encoder.embed_tokens.weight"][3, 4] += 1
    folder = write(tmp_path / "hf", model.config.to_dict() | {"architectures": None}, tensors)
    with pytest.raises(UserError, match=r"encoder\.embed_tokens\.weight differs from shared\.wei"):
        turnout.load(folder)
    foreign = open_foreign(folder)
    with pytest.raises(UserError, match="of which it must be a copy"):
        to_native(foreign, map_foreign(foreign), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_t5_1_1_as_published_has_a_head_of_its_own(tmp_path):
    """tie_word_embeddings is false, and lm_head differs from the embedding: unscaled logits."""
    model = random_model("t5 1.1")
    head = 0.3 * torch.randn(VOCABULARY, 16, generator=torch.Generator().manual_seed(9))
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors["lm_head.weight"] = head
    config = {**model.config.to_dict(), "tie_word_embeddings": False}
    config.pop("scale_decoder_outputs", None)
    config["architectures"] = ["T5ForConditionalGeneration"]
    folder = write(tmp_path / "hf", config, tensors)
    loaded = turnout.load(folder)
    assert not loaded.config.tied
    model.lm_head.weight = torch.nn.Parameter(head)
    ids, mask = text([9, 4, 6], 9, "left")
    found = ours(loaded, ids, mask, ANSWER)
    assert float((found - theirs(model, ids, mask, ANSWER)).abs().max()) <= 1e-4


def test_mixtral_with_the_settings_of_its_first_files(tmp_path):
    """rope_theta in its old place, sliding_window null, bfloat16."""
    model = random_model("mixtral", torch.bfloat16)
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name.endswith("gate_up_proj"):
            for expert, both in enumerate(tensor):
                at = name.replace("mlp.experts.gate_up_proj", f"block_sparse_moe.experts.{expert}")
                tensors[f"{at}.w1.weight"], tensors[f"{at}.w3.weight"] = both.chunk(2)
        elif name.endswith("down_proj"):
            for expert, matrix in enumerate(tensor):
                at = name.replace("mlp.experts.down_proj", f"block_sparse_moe.experts.{expert}")
                tensors[f"{at}.w2.weight"] = matrix
        else:
            tensors[name.replace("mlp.gate", "block_sparse_moe.gate")] = tensor
    config = {**model.config.to_dict(), "architectures": ["MixtralForCausalLM"]}
    config |= {"rope_theta": config.pop("rope_parameters")["rope_theta"], "sliding_window": None}
    config["torch_dtype"] = config.pop("dtype")
    folder = write(tmp_path / "hf", config, tensors)
    ids, mask = text([9, 4, 6], 9, "left")
    expected = theirs(model.float(), ids, mask, ANSWER)
    assert (
        float((ours(turnout.load(folder), ids, mask, ANSWER) - expected)[mask].abs().max()) < 1e-4
    )


V3 = {
    "model_type": "deepseek_v3",
    "architectures": ["DeepseekV3ForCausalLM"],
    "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"},
    "num_nextn_predict_layers": 1,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "moe_layer_freq": 1,
    "ep_size": 1,
    "quantization_config": {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [8, 6],
    },
}


def quantised(matrix):
    """Blocks of 8 x 6, each with the scale that makes its largest entry 448, E4M3's largest."""
    rows, columns = matrix.shape
    scales = torch.ones(-(-rows // 8), -(-columns // 6))
    whole = torch.empty_like(matrix)
    for i, j in torch.cartesian_prod(torch.arange(len(scales)), torch.arange(scales.shape[1])):
        block = slice(8 * i, 8 * i + 8), slice(6 * j, 6 * j + 6)
        scales[i, j] = matrix[block].abs().max() / 448
        whole[block] = matrix[block] / scales[i, j]
    return whole.to(torch.float8_e4m3fn), scales


@torch.no_grad()
def test_deepseek_v3_in_8_bits_with_a_layer_more(tmp_path):
    model = random_model("deepseek_v3")
    tensors = {}
    for name, tensor in per_expert(model.state_dict()).items():
        plain = "gate.weight" in name or "embed" in name or "lm_head" in name
        if tensor.dim() != 2 or plain:
            tensors[name] = tensor.clone()
            continue
        tensors[name], tensors[name + "_scale_inv"] = quantised(tensor)
        grown = tensors[name].float()
        for i, row in enumerate(tensors[name + "_scale_inv"]):
            for j, scale in enumerate(row):
                grown[8 * i : 8 * i + 8, 6 * j : 6 * j + 6] *= scale
        put(model, name, grown.bfloat16().float())
    extra = {name.replace("layers.2.", "layers.3."): t.clone() for name, t in tensors.items()}
    extra = {name: t for name, t in extra.items() if "layers.3." in name}
    extra["model.layers.3.eh_proj.weight"] = torch.ones(16, 32)
    config = {**json.loads(model.config.to_json_string()), **V3}
    folder = write(tmp_path / "hf", config, {**tensors, **extra})
    foreign = open_foreign(folder)
    notes = map_foreign(foreign).notes
    assert any("eh_proj.weight: left out (predicts a token further on" in note for note in notes)
    ids, mask = text([9, 4, 6], 9, "left")
    expected = theirs(model, ids, mask, ANSWER)
    found = ours(turnout.load(folder), ids, mask, ANSWER)
    assert float((found - expected)[mask].abs().max()) <= 1e-4

    to_native(foreign, map_foreign(foreign), tmp_path / "run")
    to_foreign(open_native(tmp_path / "run"), tmp_path / "back")
    back = open_foreign(tmp_path / "back")
    assert not back.note and "quantization_config" not in back.config
    assert all(torch.equal(back.read(name), foreign.read(name)) for name in back.names)


def per_expert(weights):
    """Without the layers of experts that transformers fuses."""
    found = {}
    for name, tensor in weights.items():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            found[name] = tensor
            continue
        stem = name.rsplit(".", 1)[0]
        for expert, matrix in enumerate(tensor):
            if name.endswith("down_proj"):
                found[f"{stem}.{expert}.down_proj.weight"] = matrix
                continue
            for word, half in zip(("gate", "up"), matrix.chunk(2), strict=True):
                found[f"{stem}.{expert}.{word}_proj.weight"] = half
    return found


def put(model, name, tensor):
    """The weights of one name of ``per_expert`` into a model of transformers."""
    weights = model.state_dict()
    if name in weights:
        weights[name].copy_(tensor)
        return
    stem, expert, word, _ = name.rsplit(".", 3)
    if word == "down_proj":
        weights[f"{stem}.down_proj"][int(expert)].copy_(tensor)
        return
    half = weights[f"{stem}.gate_up_proj"][int(expert)].chunk(2)
    half[("gate_proj", "up_proj").index(word)].copy_(tensor)


def test_scales_that_do_not_fit(tmp_path):
    model = random_model("deepseek_v3")
    config = {**json.loads(model.config.to_json_string()), **V3}
    weights = per_expert(model.state_dict())
    name = "model.layers.0.self_attn.o_proj.weight"
    eight, scales = quantised(weights[name])
    for bad, message in (({}, "has 8 bits and no"), ({name + "_scale_inv": scales[1:]}, "must be")):
        folder = write(tmp_path / message[:4].strip(), config, {**weights, name: eight, **bad})
        with pytest.raises(UserError, match=message):
            open_foreign(folder)
    other = {**config, "quantization_config": {"quant_method": "gptq"}}
    with pytest.raises(UserError, match="quant_method = 'gptq': must be 'fp8'"):
        open_foreign(write(tmp_path / "gptq", other, weights))
