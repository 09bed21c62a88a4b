"""Records of unmodified models: against the router's own logits, with padding, under a cache."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from transformers import SwitchTransformersConfig, SwitchTransformersForConditionalGeneration

from tests.integrations.transformers.families import FAMILIES, SHAPE, answer, built, text
from turnout import FeedForwardConfig, MoEConfig, RoutingContext, build_layer
from turnout.config.errors import UserError
from turnout.config.routers import TopKRouter
from turnout.integrations.transformers import capture
from turnout.integrations.transformers.blocks import sparse_blocks
from turnout.moe.record import RoutingRecord

LAYERS = {
    "mixtral": ["model.layers.0.mlp", "model.layers.1.mlp"],
    "olmoe": ["model.layers.0.mlp", "model.layers.1.mlp"],
    "qwen3_moe": ["model.layers.1.mlp", "model.layers.2.mlp"],  # layer 0 is dense
    "deepseek_v3": ["model.layers.1.mlp", "model.layers.2.mlp"],
    "gpt_oss": ["model.layers.0.mlp", "model.layers.1.mlp"],
}


def router_of(block: nn.Module) -> nn.Module:
    (found,) = (each for name, each in block.named_children() if name in ("gate", "router"))
    return found


def logits_of(model: nn.Module, ids: Tensor, mask: Tensor) -> list[Tensor]:
    """[B, S, E] of each sparse block, by hooks of the test's own."""
    found: list[Tensor] = []
    handles = [
        router_of(block.module).register_forward_hook(lambda m, a, out: found.append(out[0]))
        for block in sparse_blocks(model)
    ]
    with torch.no_grad():
        model(input_ids=ids, attention_mask=mask.long())
    for handle in handles:
        handle.remove()
    return [each.view(*ids.shape, -1) for each in found]


def recomputed(family: str, model: nn.Module, logits: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    """Experts and weights [B, S, K], as the models' papers have them."""
    k = model.config.num_experts_per_tok
    if family == "gpt_oss":
        top = logits.topk(k)
        return top.indices, top.values.softmax(-1)
    if family == "deepseek_v3":
        scores = logits.sigmoid()
        biased = scores + model.get_submodule(layer).gate.e_score_correction_bias
        groups = biased.unflatten(-1, (4, 2)).sum(-1)  # two experts a group: both count
        best = groups.topk(2).indices
        is_open = torch.zeros_like(groups).scatter(-1, best, 1.0).repeat_interleave(2, dim=-1)
        expert = biased.masked_fill(is_open == 0, -torch.inf).topk(k).indices
        chosen = scores.take_along_dim(expert, -1)
        return expert, 2.5 * chosen / chosen.sum(-1, keepdim=True)
    top = logits.softmax(-1).topk(k)
    weight = top.values if family == "olmoe" else top.values / top.values.sum(-1, keepdim=True)
    return top.indices, weight


def dense(expert: Tensor, weight: Tensor, num_experts: int) -> Tensor:
    """Weights by expert, [B, S, E]: the order of the choices is not compared."""
    column = torch.where(expert < 0, num_experts, expert)
    table = weight.new_zeros(*expert.shape[:2], num_experts + 1)
    return table.scatter_add(2, column, weight)[..., :-1]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_record_is_what_the_logits_say(family: str) -> None:
    model = built(family).eval()
    ids, mask = text()
    with capture(model) as captured, torch.no_grad():
        model(input_ids=ids, attention_mask=mask.long())
    record = captured.take()
    assert list(record.names) == LAYERS[family]
    for name, layer, logits in zip(
        record.names, record.layers, logits_of(model, ids, mask), strict=True
    ):
        expert, weight = recomputed(family, model, logits, name)
        real = mask.unsqueeze(2)
        expected = dense(expert, weight, logits.shape[2]) * real
        found = dense(layer.expert, layer.weight, logits.shape[2])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        assert layer.weight.dtype == torch.float32 and not layer.weight.requires_grad
        padding = layer.expert.masked_select(~real)
        assert padding.eq(-1).all() and padding.numel() == 9 * expert.shape[2]
        assert torch.equal(layer.live, real.expand_as(layer.live))
        assert torch.equal(layer.named, layer.expert)


def test_nothing_is_changed_and_no_hook_stays() -> None:
    model = built("olmoe")
    expected = answer(model)
    with capture(model):
        inside = answer(model)
    for found in (inside, answer(model)):
        assert all(torch.equal(value, found[name]) for name, value in expected.items())
    hooks = [m._forward_hooks.keys() | m._forward_pre_hooks.keys() for m in model.modules()]
    assert not any(hooks)


def test_recomputation_is_not_counted_twice() -> None:
    model = built("mixtral").train()
    model.activation_checkpointing_enable()
    with capture(model) as captured:
        answer(model)
    assert captured.take().layers[0].expert.shape == (3, 10, 2)


def test_generation_is_joined_along_the_sequence() -> None:
    """Ten tokens of the prompt and five of six new ones are read; the last is only written."""
    model = built("qwen3_moe").eval()
    ids, mask = text()
    with capture(model) as captured:
        made = model.generate(
            ids, attention_mask=mask.long(), max_new_tokens=6, min_new_tokens=6, do_sample=False
        )
    cached = captured.take()
    read = made[:, :-1]
    whole = torch.cat([mask, torch.ones(3, 5, dtype=torch.bool)], dim=1)
    with capture(model) as captured, torch.no_grad():
        model(input_ids=read, attention_mask=whole.long())
    at_once = captured.take()
    assert cached.names == at_once.names
    for one, other in zip(cached.layers, at_once.layers, strict=True):
        assert one.expert.shape == (3, 15, 2)
        assert torch.equal(one.expert, other.expert)


def test_a_record_drives_a_layer_of_ours(tmp_path: object) -> None:
    """Saved, loaded and replayed: the experts are those of the record, whatever our router says."""
    model = built("olmoe").eval()
    ids, mask = text()
    with capture(model) as captured, torch.no_grad():
        model(input_ids=ids, attention_mask=mask.long())
    captured.take().save(f"{tmp_path}/record.safetensors")
    record = RoutingRecord.load(f"{tmp_path}/record.safetensors")
    config = MoEConfig(8, TopKRouter(k=3, weights="raw"), train_capacity_factor=None)
    name = record.names[1]
    layer = build_layer(config, d_model=32, feed_forward=FeedForwardConfig(16), name=name)
    context = replace(RoutingContext.of(mask), replay=record.by_layer())
    _, _, decision = layer(torch.randn(3, 10, 32), context)
    assert torch.equal(decision.expert, record.layers[1].expert)


def switch() -> nn.Module:
    other = {"num_hidden_layers", "num_attention_heads", "num_key_value_heads", "hidden_size"}
    shape = {name: value for name, value in SHAPE.items() if name not in other}
    config = SwitchTransformersConfig(
        **shape | {"experts_implementation": None},
        d_model=16,
        d_ff=24,
        d_kv=8,
        num_heads=2,
        num_layers=2,
        num_decoder_layers=2,
        num_sparse_encoder_layers=1,
        num_sparse_decoder_layers=1,
        num_experts=4,
        expert_capacity=2,
        decoder_start_token_id=0,
    )
    torch.manual_seed(0)
    return SwitchTransformersForConditionalGeneration(config).eval()


def test_switch_says_what_it_dropped() -> None:
    """Capacity 2: of ten tokens of a row, at most two an expert are served."""
    model = switch()
    ids, mask = text()
    logits: dict[str, Tensor] = {}
    for block in sparse_blocks(model):
        block.watched.register_forward_hook(
            lambda module, args, out, name=block.name: logits.update({name: out[2]})
        )
    with capture(model) as captured, torch.no_grad():
        model(input_ids=ids, attention_mask=mask.long(), decoder_input_ids=ids[:, :6])
    record = captured.take()
    encoder, decoder = record.layers
    assert ["encoder" in name for name in record.names] == [True, False]
    assert encoder.expert.shape == (3, 10, 1) and decoder.expert.shape == (3, 6, 1)
    for name, layer in record.by_layer().items():
        real = mask if "encoder" in name else torch.ones(3, 6, dtype=torch.bool)
        wanted = logits[name].argmax(-1)
        probability = logits[name].softmax(-1).amax(-1)
        dropped = 0
        for row in range(3):
            taken = [0, 0, 0, 0]
            for position, expert in enumerate(wanted[row].tolist()):
                taken[expert] += 1  # padding takes slots too, in this library
                served = taken[expert] <= 2
                here = layer.expert[row, position, 0].item()
                if not real[row, position]:
                    assert here == -1 and layer.named[row, position, 0] == -1
                    continue
                dropped += not served
                assert here == (expert if served else -1)
                assert layer.named[row, position, 0] == expert and layer.live[row, position, 0]
                weight = probability[row, position] if served else 0.0
                assert layer.weight[row, position, 0] == pytest.approx(float(weight))
        assert dropped > 0


def test_what_cannot_be_captured_gets_one_line() -> None:
    with pytest.raises(UserError, match=r"^Linear: has no sparse block"), capture(nn.Linear(2, 2)):
        pass
    model = built("olmoe")
    ids, mask = text()
    with capture(model) as captured:
        model.model(input_ids=ids)  # not the model that was given
        with pytest.raises(UserError, match="nothing was captured"):
            captured.take()
        with pytest.raises(UserError, match="attention_mask: must be a tensor"):
            model(input_ids=ids, attention_mask=mask[:, None, None])
    with capture(model) as captured:
        model(input_ids=ids)
        model(input_ids=ids[:2])
        with pytest.raises(UserError, match=r"batches of \[2, 3\] rows"):
            captured.take()
