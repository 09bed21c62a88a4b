"""NLLB-MoE: in its published naming, what transformers does otherwise, and what is refused."""

import json
from dataclasses import replace

import pytest
import torch

import turnout
from tests.convert.cases import CASES, ours, random_model, saved, text, theirs
from tests.convert.shapes import VOCABULARY
from tests.convert.test_families import ANSWER
from tests.convert.test_published import write
from turnout.cli.main import main
from turnout.config.errors import UserError
from turnout.config.model import FanInInit
from turnout.config.positions import Sinusoidal
from turnout.config.routers import TopKRouter
from turnout.convert.folder import open_foreign
from turnout.convert.mapping import map_foreign
from turnout.convert.repairs import mended

# In the fields of the published 54 billion, with other sizes.
PUBLISHED = {
    "model_type": "nllb-moe",
    "architectures": ["NllbMoeForConditionalGeneration"],
    "activation_dropout": 0.0,
    "activation_function": "relu",
    "attention_dropout": 0.1,
    "batch_prioritized_routing": False,
    "bos_token_id": 0,
    "d_model": 16,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 24,
    "decoder_layerdrop": 0,
    "decoder_layers": 4,
    "decoder_sparse_step": 4,
    "decoder_start_token_id": 2,
    "dropout": 0.1,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 24,
    "encoder_layerdrop": 0,
    "encoder_layers": 4,
    "encoder_sparse_step": 4,
    "eos_token_id": 2,
    "expert_capacity": 64,
    "init_std": 0.02,
    "is_encoder_decoder": True,
    "max_length": 200,
    "max_position_embeddings": 1024,
    "moe_eval_capacity_token_fraction": 1.0,
    "moe_token_dropout": 0.2,
    "normalize_router_prob_before_dropping": True,
    "num_experts": 3,
    "num_hidden_layers": 4,
    "output_router_logits": False,
    "pad_token_id": 1,
    "router_aux_loss_coef": 0.001,
    "router_bias": False,
    "router_dtype": "float32",
    "router_ignore_padding_tokens": False,
    "router_z_loss_coef": 0.001,
    "scale_embedding": True,
    "second_expert_policy": "all",
    "torch_dtype": "float32",
    "use_cache": True,
    "vocab_size": VOCABULARY,
}


def published_tensors():
    """Every tied table written out, and the sinusoids with them, as older versions wrote them."""
    generator = torch.Generator().manual_seed(5)

    def drawn(*shape):
        return 0.3 * torch.randn(*shape, generator=generator)

    def linear(at, outputs, inputs):
        return {f"{at}.weight": drawn(outputs, inputs), f"{at}.bias": drawn(outputs)}

    def norm(at):
        return {f"{at}.weight": 1 + drawn(16), f"{at}.bias": drawn(16)}

    def network(at):
        return linear(f"{at}.fc1", 24, 16) | linear(f"{at}.fc2", 16, 24)

    shared = drawn(VOCABULARY, 16)
    shared[1] = 0.0
    found = {"model.shared.weight": shared, "lm_head.weight": shared.clone()}
    for stack in ("encoder", "decoder"):
        found[f"model.{stack}.embed_tokens.weight"] = shared.clone()
        found[f"model.{stack}.embed_positions.weights"] = torch.ones(1026, 16)
        found |= norm(f"model.{stack}.layer_norm")
        across = ("cross_attention",) if stack == "decoder" else ()
        for layer in range(4):
            at = f"model.{stack}.layers.{layer}"
            for attention in ("self_attn", *across):
                found |= norm(f"{at}.{attention}_layer_norm")
                for name in ("q", "k", "v", "out"):
                    found |= linear(f"{at}.{attention}.{name}_proj", 16, 16)
            found |= norm(f"{at}.ff_layer_norm")
            if layer < 3:
                found |= network(f"{at}.ffn")
                continue
            found[f"{at}.ffn.router.classifier.weight"] = drawn(3, 16)
            for expert in range(3):
                found |= network(f"{at}.ffn.experts.expert_{expert}")
    return found


def test_as_published(tmp_path, monkeypatch):
    tensors = published_tensors()
    folder = write(tmp_path / "hf", PUBLISHED, tensors)
    model = turnout.load(folder)
    moe = model.config.moe
    assert moe.router == TopKRouter(2) and moe.output_masking == 0.2
    assert not moe.weights_after_drops
    assert [stack.sparse_layers for stack in model.config.stacks()] == [(3,), (3,)]
    assert model.config.positions == Sinusoidal(offset=2)
    assert model.config.encoder_length == model.config.decoder_length == 1024
    notes = map_foreign(open_foreign(folder)).notes
    assert len(notes) == 2 and all("sinusoids, which are computed" in note for note in notes)
    fields = {name: value for name, value in PUBLISHED.items() if name != "architectures"}
    monkeypatch.setitem(CASES, "published", ("NllbMoe", fields))
    twin = random_model("published")
    wanted = {n: t for n, t in tensors.items() if "embed_positions" not in n}
    twin.load_state_dict(wanted)
    ids, mask = text([9, 4, 6], 9, "left", padding=1)
    found, expected = ours(model, ids, mask, ANSWER), theirs(twin, ids, mask, ANSWER)
    assert float((found - expected).abs().max()) <= 1e-4
    assert model.config.num_params() == sum(p.numel() for p in model.parameters())
    # There and back, the configuration's fields that our model has no place for with it.
    assert main(["convert", str(folder), str(tmp_path / "run")]) == 0
    assert main(["convert", str(tmp_path / "run"), str(tmp_path / "back")]) == 0
    back = open_foreign(tmp_path / "back")
    once = {"model.shared.weight"} | {n for n in wanted if "embed" not in n and "lm_head" not in n}
    assert back.names == once
    assert all(torch.equal(back.read(name), tensors[name]) for name in back.names)
    assert {**back.config, **PUBLISHED} == dict(back.config)


def test_a_copy_that_is_none_is_refused(tmp_path, capsys):
    tensors = published_tensors()
    tensors["model.decoder.embed_tokens.weight"][3, 4] += 1
    folder = write(tmp_path / "hf", PUBLISHED, tensors)
    assert main(["convert", str(folder), str(tmp_path / "run")]) == 2
    assert "model.decoder.embed_tokens.weight differs from model.shared" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_transformers_as_released_uses_two_experts_of_eight(tmp_path):
    """5.23 hands a mask of experts to what wants their numbers, so that no weight of experts 2 to 7
    is ever read: their loss changes nothing there, and ours is the function with them."""
    name = "nllb-moe, all sparse"
    folder = saved(name, tmp_path / "hf")
    released = type(random_model(name)).from_pretrained(folder).eval()
    ids, mask = text([9, 4, 6], 9, "left", padding=1)
    before = theirs(released, ids, mask, ANSWER)
    model = turnout.load(folder)
    found = ours(model, ids, mask, ANSWER)
    assert float((found - before).abs().max()) > 1e-2
    with torch.no_grad():
        for parameter_name, parameter in released.named_parameters():
            if ".expert_" in parameter_name and parameter_name.split(".expert_")[1][0] not in "01":
                parameter.zero_()
    assert torch.equal(theirs(released, ids, mask, ANSWER), before)
    with torch.no_grad():
        for layer in model.sparse_layers().values():
            for weight in layer.experts.parameters():
                weight[2:] = 0.0
    assert float((ours(model, ids, mask, ANSWER) - found).abs().max()) > 1e-2


def test_verify_mends_that_and_says_so(tmp_path, capsys):
    folder = saved("nllb-moe", tmp_path / "hf")
    assert main(["convert", str(folder), str(tmp_path / "run"), "--verify"]) == 0
    said = capsys.readouterr().out
    assert "note: its NLLB-MoE takes the mask of chosen experts for their numbers" in said
    # What is no mask is left alone: a transformers that hands over numbers is compared as it is.
    model = random_model("nllb-moe, all sparse")
    experts = model.model.encoder.layers[0].ffn.experts
    rows = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    numbers, weights = torch.tensor([[2, 7]] * 5), torch.full((5, 2), 0.5)
    network = [experts[f"expert_{number}"] for number in (2, 7)]
    with torch.no_grad():
        expected = 0.5 * network[0](rows) + 0.5 * network[1](rows)
        plain = type(experts)(model.config, 24)
        plain.load_state_dict(experts.state_dict())
        assert mended(plain.eval())
        found = plain(rows, numbers, weights)
    assert float((found - expected).abs().max()) <= 1e-6


def test_padding_moves_nothing_here(tmp_path):
    """Positions count real tokens alone, and no token is dropped for another row's sake."""
    model = turnout.load(saved("nllb-moe", tmp_path / "hf"))
    ids, mask = text([9, 4], 9, "left", padding=1)
    padded = ours(model, ids, mask, ANSWER[:2])[1:]
    alone = ours(model, ids[1:, 5:], mask[1:, 5:], ANSWER[1:2])
    assert float((padded - alone).abs().max()) <= 1e-5


@pytest.mark.parametrize("share", [0.25, -1.0])
def test_a_share_of_slots_is_said_and_not_taken_over(share, tmp_path, monkeypatch, capsys):
    """transformers counts it over the tokens of the whole batch, padding with them: a row's logits
    depend on the rows beside it. Here they are those without drops."""
    kind, fields = CASES["nllb-moe"]
    tight = {**fields, "moe_eval_capacity_token_fraction": share, "expert_capacity": 2}
    monkeypatch.setitem(CASES, "tight", (kind, tight))
    folder, theirs_of = saved("tight", tmp_path / "hf"), random_model("tight")
    ids, mask = text([9, 9, 9], 9, "right", padding=1)
    together = theirs(theirs_of, ids, mask, ANSWER)[:1]
    alone = theirs(random_model("tight"), ids[:1], mask[:1], ANSWER[:1])
    assert float((together - alone).abs().max()) > 1e-3
    assert main(["convert", str(folder), str(tmp_path / "run")]) == 0
    assert f"moe_eval_capacity_token_fraction = {share}: transformers" in capsys.readouterr().out
    model, whole = (
        turnout.load(tmp_path / "run"),
        theirs(random_model("nllb-moe"), ids, mask, ANSWER),
    )
    assert float((ours(model, ids, mask, ANSWER) - whole).abs().max()) <= 1e-4
    # The field is kept on the way back, and cannot be imitated.
    assert main(["convert", str(tmp_path / "run"), str(tmp_path / "back")]) == 0
    kept = json.loads((tmp_path / "back" / "config.json").read_text())
    assert kept["moe_eval_capacity_token_fraction"] == share
    again = [str(folder), str(tmp_path / "more"), "--imitate", "transformers"]
    assert main(["convert", *again]) == 2
    assert "must be left out for nllb-moe" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"second_expert_policy": "random"}, "second_expert_policy = 'random': must be 'all'"),
        ({"activation_function": "gelu"}, "activation_function = 'gelu': must be 'relu'"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings = False: must be True"),
        ({"router_dtype": "bfloat16"}, "router_dtype = 'bfloat16': must be 'float32'"),
        ({"decoder_ffn_dim": 32}, "decoder_ffn_dim = 32: must be encoder_ffn_dim, 24"),
        ({"decoder_attention_heads": 2}, "decoder_attention_heads = 2: must be encoder_attention"),
        ({"decoder_sparse_step": 2}, "decoder_sparse_step = 4, 2: must be the same"),
        ({"pad_token_id": -1}, "pad_token_id = -1: must be a whole number from 0"),
        ({"d_model": 18}, "d_model = 18: must be a multiple of the 4 heads"),
        ({"moe_token_dropout": 1.0}, "moe.output_masking = 1.0: must be in [0, 1)"),
    ],
)
def test_what_is_refused(fields, message, tmp_path, capsys):
    folder = write(tmp_path / "hf", {**PUBLISHED, **fields}, published_tensors())
    assert main(["convert", str(folder), str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"norm": "rms"}, "model.norm = 'rms'"),
        ({"norm_epsilon": 1e-6}, "model.norm_epsilon = 1e-06"),
        ({"positions": Sinusoidal(offset=2, theta=100.0)}, "model.positions.theta = 100.0"),
    ],
)
def test_a_model_that_it_cannot_say_is_refused(change, field, tmp_path):
    config = replace(turnout.load(saved("nllb-moe", tmp_path / "hf")).config, **change)
    model = turnout.build_model(config)
    model.init_weights(seed=0)
    with pytest.raises(UserError, match=f"nllb-moe has no {field}"):
        turnout.save(model, tmp_path / "out", format="huggingface")
    scaled = turnout.build_model(replace(config, initialisation=FanInInit()))
    scaled.init_weights(seed=0)
    with pytest.raises(UserError, match="no family of Hugging Face computes what"):
        turnout.save(scaled, tmp_path / "out", format="huggingface")
