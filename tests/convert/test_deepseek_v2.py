"""DeepSeek-V2 in the names and settings of its checkpoints, written here; and what its readers
differ in."""

import json

import pytest
import torch
from safetensors.torch import save_file

import turnout
from tests.convert.cases import ours, random_model, reload, saved, text, theirs
from tests.convert.shapes import VOCABULARY
from tests.convert.test_families import ANSWER
from turnout.config.errors import UserError
from turnout.config.latent_attention import LatentAttention
from turnout.config.rotary_scaling import YarnScaling
from turnout.config.routers import TopKRouter
from turnout.convert.conversion import to_foreign, to_native
from turnout.convert.folder import open_foreign
from turnout.convert.mapping import map_foreign
from turnout.convert.native import open_native

WIDTH, HEADS, NOPE, ROPE, VALUE, RANK = 16, 2, 4, 2, 3, 6
EXPERTS, EXPERT, SHARED, DENSE, LAYERS = 6, 8, 2, 20, 3

YARN = {
    "beta_fast": 32,
    "beta_slow": 1,
    "factor": 40,
    "mscale": 0.707,
    "mscale_all_dim": 0.707,
    "original_max_position_embeddings": 16,
    "type": "yarn",
}
# The fields of DeepSeek-V2-Lite's file, in small.
LITE = {
    "architectures": ["DeepseekV2ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_deepseek.DeepseekV2Config",
        "AutoModelForCausalLM": "modeling_deepseek.DeepseekV2ForCausalLM",
    },
    "aux_loss_alpha": 0.001,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": WIDTH,
    "initializer_range": 0.02,
    "intermediate_size": DENSE,
    "kv_lora_rank": RANK,
    "max_position_embeddings": 640,
    "model_type": "deepseek_v2",
    "moe_intermediate_size": EXPERT,
    "moe_layer_freq": 1,
    "n_group": 1,
    "n_routed_experts": EXPERTS,
    "n_shared_experts": SHARED,
    "norm_topk_prob": False,
    "num_attention_heads": HEADS,
    "num_experts_per_tok": 3,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": HEADS,
    "pretraining_tp": 1,
    "q_lora_rank": None,
    "qk_nope_head_dim": NOPE,
    "qk_rope_head_dim": ROPE,
    "rms_norm_eps": 1e-06,
    "rope_scaling": YARN,
    "rope_theta": 10000,
    "routed_scaling_factor": 1.0,
    "scoring_func": "softmax",
    "seq_aux": True,
    "tie_word_embeddings": False,
    "topk_group": 1,
    "topk_method": "greedy",
    "torch_dtype": "bfloat16",
    "transformers_version": "4.33.1",
    "use_cache": True,
    "v_head_dim": VALUE,
    "vocab_size": VOCABULARY,
}
# And what the large one has otherwise.
LARGE = {
    **LITE,
    "n_group": 3,
    "topk_group": 2,
    "topk_method": "group_limited_greedy",
    "routed_scaling_factor": 16.0,
    "q_lora_rank": 8,
}


def tensors_of(config):
    """As the checkpoints name them: layer 0 dense, the others sparse, an expert at a time."""
    generator = torch.Generator().manual_seed(7)

    def drawn(*shape):
        return (0.3 * torch.randn(*shape, generator=generator)).bfloat16()

    def network(prefix, width):
        return {
            f"{prefix}.gate_proj.weight": drawn(width, WIDTH),
            f"{prefix}.up_proj.weight": drawn(width, WIDTH),
            f"{prefix}.down_proj.weight": drawn(WIDTH, width),
        }

    found = {"model.embed_tokens.weight": drawn(VOCABULARY, WIDTH)}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        found |= {
            f"{at}.self_attn.kv_a_proj_with_mqa.weight": drawn(RANK + ROPE, WIDTH),
            f"{at}.self_attn.kv_a_layernorm.weight": 1 + drawn(RANK),
            f"{at}.self_attn.kv_b_proj.weight": drawn(HEADS * (NOPE + VALUE), RANK),
            f"{at}.self_attn.o_proj.weight": drawn(WIDTH, HEADS * VALUE),
            f"{at}.input_layernorm.weight": 1 + drawn(WIDTH),
            f"{at}.post_attention_layernorm.weight": 1 + drawn(WIDTH),
        }
        rank, queries = config["q_lora_rank"], HEADS * (NOPE + ROPE)
        if rank is None:
            found[f"{at}.self_attn.q_proj.weight"] = drawn(queries, WIDTH)
        else:
            found[f"{at}.self_attn.q_a_proj.weight"] = drawn(rank, WIDTH)
            found[f"{at}.self_attn.q_a_layernorm.weight"] = 1 + drawn(rank)
            found[f"{at}.self_attn.q_b_proj.weight"] = drawn(queries, rank)
        if layer == 0:
            found |= network(f"{at}.mlp", DENSE)
            continue
        found[f"{at}.mlp.gate.weight"] = drawn(EXPERTS, WIDTH)
        found |= network(f"{at}.mlp.shared_experts", SHARED * EXPERT)
        for expert in range(EXPERTS):
            found |= network(f"{at}.mlp.experts.{expert}", EXPERT)
    return found | {
        "model.norm.weight": 1 + drawn(WIDTH),
        "lm_head.weight": drawn(VOCABULARY, WIDTH),
    }


def write(folder, config, tensors=None):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors or tensors_of(config), folder / "model.safetensors")
    return folder


def in_transformers(folder):
    return type(random_model("deepseek_v2")).from_pretrained(folder, dtype=torch.float32).eval()


def largest_difference(folder, twin):
    ids, mask = text([9, 4, 6], 9, "left")
    found = ours(turnout.load(folder), ids, mask, ANSWER)
    return float((found - theirs(twin, ids, mask, ANSWER))[mask].abs().max())


@pytest.mark.parametrize("config", [LITE, LARGE], ids=["lite", "large"])
def test_the_same_logits_there_and_back(config, tmp_path):
    folder = write(tmp_path / "hf", config)
    foreign = open_foreign(folder)
    mapped = map_foreign(foreign)
    assert mapped.notes == ()
    attention = LatentAttention(HEADS, RANK, NOPE, ROPE, VALUE, config["q_lora_rank"])
    assert mapped.config.attention == attention
    assert mapped.config.positions.interleaved
    assert mapped.config.positions.scaling == YarnScaling(
        40.0, 16, mscale=0.707, mscale_all_dim=0.707
    )
    assert largest_difference(folder, in_transformers(folder)) <= 1e-4

    to_native(foreign, mapped, tmp_path / "run")
    to_foreign(open_native(tmp_path / "run"), tmp_path / "back")
    back, tensors = open_foreign(tmp_path / "back"), tensors_of(config)
    assert back.names == tensors.keys()
    assert all(torch.equal(back.read(name), tensors[name]) for name in tensors)
    # Everything that the file said stands there again, and the positions by their new name too.
    assert {**back.config, **config} == {**back.config, "transformers_version": "4.33.1"}
    assert largest_difference(tmp_path / "back", in_transformers(folder)) <= 1e-4


def test_the_routers_that_are_read():
    def router(**fields):
        from turnout.convert.families import Read
        from turnout.convert.families.deepseek_v2 import DEEPSEEK_V2

        values = Read({**LARGE, **fields})
        return DEEPSEEK_V2.read(values, frozenset()).moe.router, values.remarks

    assert router() == (TopKRouter(3, "raw", expert_groups=3, groups_kept=2, scale=16.0), [])
    # Groups without their method, as in Lite's file and in transformers' own, count for nothing.
    assert router(topk_method="greedy") == (TopKRouter(3, "raw", scale=16.0), [])
    normalised, remarks = router(norm_topk_prob=True)
    assert normalised == TopKRouter(3, "renormalised", expert_groups=3, groups_kept=2)
    assert len(remarks) == 1 and "transformers ignores the field" in remarks[0]
    # One weight is not normalised there, but scaled.
    one = {"num_experts_per_tok": 1, "norm_topk_prob": True}
    assert router(**one) == (TopKRouter(1, "raw", expert_groups=3, groups_kept=2, scale=16.0), [])


@pytest.mark.parametrize("config", [LITE, LARGE], ids=["lite", "large"])
def test_normalised_weights_are_those_of_the_published_classes(config, tmp_path):
    """Which transformers computes too once its routers divide by the sum of what they chose."""
    folder = write(tmp_path / "hf", {**config, "norm_topk_prob": True})
    notes = map_foreign(open_foreign(folder)).notes
    assert len(notes) == 1 and "as in the published classes" in notes[0]
    twin = in_transformers(folder)
    assert largest_difference(folder, twin) > 0.01
    for name, module in twin.named_modules():
        if name.endswith(".mlp.gate"):
            module.register_forward_hook(
                lambda _, inputs, out: (out[0], out[1] / out[1].sum(-1, keepdim=True), out[2])
            )
    assert largest_difference(folder, twin) <= 1e-4
    with pytest.raises(
        UserError, match=r"deepseek_v2 has no model\.moe\.router\.weights = 'renorm"
    ):
        turnout.save(turnout.load(folder), tmp_path / "back", format="huggingface")
    assert not (tmp_path / "back").exists()


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_without_shared_experts(tmp_path):
    """transformers writes tensors of no elements in their place, and does without them."""
    folder = saved("deepseek_v2", tmp_path / "hf")
    tensors = {name: open_foreign(folder).read(name) for name in open_foreign(folder).names}
    for name, tensor in tensors.items():
        if "shared_experts" in name:
            tensors[name] = tensor[:, :0] if "down_proj" in name else tensor[:0]
    config = json.loads((folder / "config.json").read_text()) | {"n_shared_experts": 0}
    bare = write(tmp_path / "bare", config, tensors)
    notes = map_foreign(open_foreign(bare)).notes
    assert len(notes) == 6 and all("left out (it has no elements)" in note for note in notes)
    twin = reload("deepseek_v2", folder)
    for name, module in twin.named_modules():
        if name.endswith(".shared_experts"):
            module.register_forward_hook(lambda _, inputs, out: torch.zeros_like(out))
    assert largest_difference(bare, twin) <= 1e-4
    turnout.save(turnout.load(bare), tmp_path / "back", format="huggingface")
    assert json.loads((tmp_path / "back" / "config.json").read_text())["n_shared_experts"] == 0
    # Theirs has shared experts of width 0 again, whatever the file lacks.
    assert largest_difference(bare, reload("deepseek_v2", tmp_path / "back")) <= 1e-4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"topk_method": "noaux_tc"}, "topk_method = 'noaux_tc': must be 'greedy' or 'group_lim"),
        ({"scoring_func": "sigmoid"}, "scoring_func = 'sigmoid': must be 'softmax'"),
        ({"n_group": None}, "n_group = None: must be a whole number from 1"),
        ({"n_group": 4}, r"router\.expert_groups = 4: must be a divisor of the 6 experts"),
        ({"topk_group": 4}, r"router\.groups_kept = 4: must be from 1 to"),
        ({"num_experts_per_tok": 5}, r"router\.k = 5: must be at most 4"),
        ({"n_shared_experts": -1}, "n_shared_experts = -1: must be a whole number, 0 or more"),
        ({"q_lora_rank": "8"}, "q_lora_rank = '8': must be a whole number from 1"),
        ({"routed_scaling_factor": 0.0}, r"router\.scale = 0\.0: must be above 0"),
        ({"moe_layer_freq": 2}, "moe_layer_freq = 2: must be 1"),
        ({"rope_scaling": {**YARN, "beta_fast": "32"}}, "beta_fast = '32': must be a number"),
        (
            {"rope_scaling": {**YARN, "original_max_position_embeddings": 16.0}},
            r"original_max_position_embeddings = 16\.0: must be a whole number",
        ),
        ({"mlp_bias": True}, "mlp_bias = True: must be False"),
    ],
)
def test_refusals(fields, message, tmp_path):
    folder = write(tmp_path / "hf", {**LARGE, **fields}, tensors_of(LARGE))
    with pytest.raises(UserError, match=message) as error:
        turnout.load(folder)
    assert "\n" not in str(error.value)
