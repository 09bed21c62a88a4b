"""Our layer in place of the library's blocks: the same outputs and gradients, and the way back."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from tests.integrations.transformers.families import answer, apart, built, text
from turnout import router_losses
from turnout.config.errors import UserError
from turnout.integrations.transformers import (
    ReplacedBlock,
    capture,
    put_back,
    replace_moe,
    statistics,
)

FAMILIES = ["mixtral", "olmoe", "qwen3_moe", "deepseek_v3"]
BOUND = 1e-5


def under_their_names(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of ours as the library lays out its parameters, written out once more."""
    out = {}
    for name, grad in found.items():
        block, _, own = name.partition(".layer.")
        if not own:
            out[name] = grad
        elif own == "router.weight":
            out[f"{block}.gate.weight"] = grad
        elif own == "experts.w_out":
            out[f"{block}.experts.down_proj"] = torch.stack([each.T for each in grad])
        elif own == "experts.w_gate":
            up = found[name.replace("w_gate", "w_in")]
            both = [torch.cat([g.T, u.T]) for g, u in zip(grad, up, strict=True)]
            out[f"{block}.experts.gate_up_proj"] = torch.stack(both)
        elif own.startswith("shared."):
            part = {"w_gate": "gate_proj", "w_in": "up_proj", "w_out": "down_proj"}[own[7:]]
            out[f"{block}.shared_experts.{part}.weight"] = grad
        else:
            assert own == "experts.w_in"
    return out


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_and_gradients_stay(family: str, training: bool) -> None:
    model = built(family).train(training)
    expected = answer(model)
    report = replace_moe(model)
    assert len(report.swapped) == 2 and report.left == {}
    assert report.text().splitlines() == [f"{name}: ours" for name in report.swapped]
    found = under_their_names(answer(model))
    assert found.keys() == expected.keys()
    far = {name: apart(value, found[name]) for name, value in expected.items()}
    assert {name: value for name, value in far.items() if value > BOUND} == {}
    assert any(value > 0 for value in far.values())


def test_under_autocast_experts_compute_in_bfloat16() -> None:
    model = built("olmoe")
    expected = answer(model, autocast=True)
    replace_moe(model)
    seen = []
    model.model.layers[0].mlp.layer.experts.register_forward_pre_hook(
        lambda module, args: seen.append(args[0].dtype)
    )
    found = answer(model, autocast=True)
    assert seen == [torch.bfloat16]
    # A router in float32 sends a token or two elsewhere than one in bfloat16.
    one, other = expected["logits"].double(), found["logits"].double()
    assert ((one - other).norm(dim=1) / one.norm(dim=1)).median() < 0.02


def test_it_generates_the_same_text() -> None:
    model = built("mixtral").eval()
    ids, mask = text()
    said = []
    for _ in range(2):
        said.append(
            model.generate(ids, attention_mask=mask.long(), max_new_tokens=6, do_sample=False)
        )
        if len(said) == 1:
            replace_moe(model)
    assert torch.equal(*said)


@pytest.mark.parametrize("family", FAMILIES)
def test_trained_and_put_back_it_saves_under_their_names(family: str, tmp_path: Path) -> None:
    model = built(family)
    names = {name: each.shape for name, each in model.state_dict().items()}
    before = copy.deepcopy(model.state_dict())
    replace_moe(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    answer(model)
    optimizer.step()
    trained = answer(model)["logits"]
    blocks = put_back(model)
    assert len(blocks) == 2
    after = model.state_dict()
    assert {name: each.shape for name, each in after.items()} == names
    assert not any(each.is_meta for each in after.values())
    moved = {name for name, each in after.items() if not torch.equal(each, before[name])}
    assert {f"{name}.experts.down_proj" for name in blocks} <= moved
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, experts_implementation="eager")
    assert apart(trained, answer(loaded)["logits"]) < BOUND


def test_there_and_back_changes_no_bit() -> None:
    model = built("deepseek_v3")
    before = copy.deepcopy(model.state_dict())
    replace_moe(model)
    put_back(model)
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    assert model.model.layers[1].mlp.gate.weight.dtype == torch.float32


def test_dtype_mode_and_freezing_are_kept() -> None:
    model = built("deepseek_v3").bfloat16().eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("down_proj" not in name)
    replace_moe(model)
    layer = model.model.layers[1].mlp.layer
    assert not layer.training
    assert layer.experts.w_in.dtype == torch.bfloat16 and layer.experts.w_in.requires_grad
    assert not layer.experts.w_out.requires_grad and not layer.shared.w_out.requires_grad
    put_back(model)
    block = model.model.layers[1].mlp
    assert block.experts.gate_up_proj.requires_grad and not block.training
    assert not block.experts.down_proj.requires_grad
    assert not block.shared_experts.down_proj.weight.requires_grad


def test_the_losses_come_from_the_layers() -> None:
    """A gradient of the balance loss alone reaches the routers, and recomputation adds no sums."""
    model = built("olmoe").train()
    replace_moe(model)
    model.activation_checkpointing_enable()
    ids, mask = text()
    with statistics(model) as stats:
        model(input_ids=ids, attention_mask=mask.long())
        assert [each.name for each in stats] == ["model.layers.0.mlp", "model.layers.1.mlp"]
        sum(router_losses(each) for each in stats).backward()
    assert len(stats) == 2
    assert all(int(each.router.tokens.sum()) == 30 for each in stats)  # padding counts here
    for layer in model.model.layers:
        assert layer.mlp.layer.router.weight.grad.abs().sum() > 0


def left_with(model: nn.Module, why: str) -> None:
    before = answer(model)["logits"]
    report = replace_moe(model)
    assert report.swapped == ()
    assert all(why in reason for reason in report.left.values()) and report.left
    assert "left, " in report.text()
    assert torch.equal(before, answer(model)["logits"])


def test_what_has_no_equal_is_left_with_the_reason() -> None:
    left_with(built("gpt_oss"), "GptOssMLP: not one of")
    left_with(built("olmoe", hidden_act="relu"), "hidden_act = 'relu'")
    left_with(built("qwen3_moe", num_experts_per_tok=1), "router.weights = 'renormalised'")
    noisy = built("mixtral", router_jitter_noise=0.1).eval()
    left_with(noisy, "router_jitter_noise = 0.1")
    wrapped = built("olmoe")
    for layer in wrapped.model.layers:
        layer.mlp.forward = layer.mlp.forward
    left_with(wrapped, "its forward is wrapped")


def test_logits_that_nobody_would_report_are_refused_before_anything_is_swapped() -> None:
    model = built("mixtral", output_router_logits=True)
    with pytest.raises(UserError, match="output_router_logits = True: must be false"):
        replace_moe(model)
    assert not any(isinstance(each, ReplacedBlock) for each in model.modules())


def test_a_record_of_theirs_is_the_routing_of_ours() -> None:
    model = built("qwen3_moe").eval()
    ids, mask = text()
    with capture(model) as captured, torch.no_grad():
        model(input_ids=ids, attention_mask=mask.long())
    record = captured.take()
    replace_moe(model)
    decisions = {}
    for name in record.names:
        model.get_submodule(name).layer.register_forward_hook(
            lambda module, args, out, name=name: decisions.update({name: out[2]})
        )
    with torch.no_grad():
        model(input_ids=ids, attention_mask=mask.long())
    for name, layer in record.by_layer().items():
        ours = torch.where(mask.unsqueeze(2), decisions[name].expert, -1)
        assert torch.equal(ours, layer.expert)
