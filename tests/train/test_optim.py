"""Which parameters decay, which are stacked; dtype choices; optimiser state by name."""

import pytest
import torch
from tests.models.cases import T5
from torch import nn

from turnout.checkpoint.format import CheckpointError
from turnout.config.errors import UserError
from turnout.config.optimizers import AdafactorConfig, AdamWConfig
from turnout.models.build import build
from turnout.train.adafactor import Adafactor
from turnout.train.optim import build_optimizer, expert_parameters, role_of, set_learning_rate
from turnout.train.optim_state import export_state, restore_state, untrained_parameters
from turnout.train.precision import compute_dtype


class _Sparse(nn.Module):
    """The parameter names of a small sparse model."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.linear = nn.Linear(4, 4)
        self.moe = nn.ModuleDict({"router": nn.Linear(4, 3), "experts": nn.Module()})
        self.moe["experts"].w_in = nn.Parameter(torch.ones(3, 4, 6))
        self.moe["experts"].bias = nn.Parameter(torch.ones(3, 6))
        self.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)


def _names(group: dict[str, object]) -> set[str]:
    return set(group["param_names"])  # type: ignore[call-overload]


def test_adamw_decays_matrices_alone() -> None:
    groups = build_optimizer(AdamWConfig(weight_decay=0.1), _Sparse()).param_groups
    decayed = {name for group in groups if group["weight_decay"] for name in _names(group)}
    assert decayed == {"linear.weight", "moe.experts.w_in"}
    assert {group["weight_decay"] for group in groups} == {0.0, 0.1}
    assert set().union(*map(_names, groups)) - decayed == {
        "embedding.weight",
        "linear.bias",
        "moe.router.weight",
        "moe.router.bias",
        "moe.experts.bias",
    }


def test_adafactor_knows_the_stacked_experts() -> None:
    groups = {
        group["role"]: group for group in build_optimizer(AdafactorConfig(), _Sparse()).param_groups
    }
    assert {role: group["stacked"] for role, group in groups.items()} == {
        "other": False,
        "router": False,
        "experts": True,
    }
    assert _names(groups["experts"]) == {"moe.experts.w_in", "moe.experts.bias"}
    assert _names(groups["router"]) == {"moe.router.weight", "moe.router.bias"}
    assert "frozen" not in _names(groups["other"])


@pytest.mark.parametrize("kind", [AdamWConfig, AdafactorConfig])
def test_each_role_learns_at_its_own_rate(kind: type) -> None:
    optimizer = build_optimizer(kind(router_rate=0.5, expert_rate=2.0), _Sparse())
    set_learning_rate(optimizer, 0.1)
    rates = {group["role"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {"other": 0.1, "router": 0.05, "experts": 0.2}


def test_expert_parameters_are_the_stacked_ones() -> None:
    model = _Sparse()
    experts = model.moe["experts"]
    assert {id(p) for p in expert_parameters(model)} == {id(experts.w_in), id(experts.bias)}


def test_an_unknown_optimiser_is_refused() -> None:
    with pytest.raises(TypeError, match="no optimiser for str"):
        build_optimizer("sgd", nn.Linear(1, 1))


def test_a_router_is_known_by_a_whole_part_of_its_name() -> None:
    assert role_of("decoder.3.moe.router.weight") == "router"
    assert role_of("decoder.3.my_router_like.weight") == "other"
    assert role_of("decoder.3.moe.shared_experts.w_in") == "other"
    assert role_of("decoder.3.moe.experts.w_in") == "experts"


@pytest.mark.parametrize("config", [AdamWConfig(), AdafactorConfig(min_factored=4)])
def test_state_round_trips_by_name(config: AdamWConfig | AdafactorConfig) -> None:
    def stepped(model: nn.Module, optimizer: torch.optim.Optimizer, times: int) -> None:
        for index in range(times):
            for param in model.parameters():
                param.grad = torch.full_like(param, 0.1 + index) if param.requires_grad else None
            model.linear.bias.grad = None  # never trained: it has no state
            optimizer.step()

    torch.manual_seed(0)
    model, other = _Sparse(), _Sparse()
    optimizer = build_optimizer(config, model)
    set_learning_rate(optimizer, 0.01)
    stepped(model, optimizer, 2)
    live, scalars = export_state(optimizer)
    tensors = {name: tensor.clone() for name, tensor in live.items()}  # as a checkpoint does
    assert scalars["moe.experts.w_in"] == {"step": 2.0}
    assert "linear.bias" not in scalars
    assert all(tensor.dim() > 0 for tensor in tensors.values())
    other.load_state_dict(model.state_dict())
    again = build_optimizer(config, other)
    set_learning_rate(again, 0.01)
    restore_state(again, tensors, scalars, untrained_parameters(optimizer), "test")
    stepped(model, optimizer, 1)
    stepped(other, again, 1)
    for (name, one), two in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two), name


def test_state_of_an_unknown_parameter_is_refused() -> None:
    optimizer = build_optimizer(AdamWConfig(), nn.Linear(2, 2))
    with pytest.raises(UserError, match="optimiser state of other"):
        restore_state(optimizer, {}, {"other": {"step": 1.0}}, (), "runs/x")


def test_auto_takes_what_the_hardware_has(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert compute_dtype("auto", cpu) == (torch.bfloat16, "the CPU has avx512_bf16")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert compute_dtype("auto", cpu)[0] is torch.float32
    assert compute_dtype("bfloat16", cpu)[0] is torch.bfloat16
    with pytest.raises(UserError, match=r"train.dtype = 'float8'"):
        compute_dtype("float8", cpu)


@pytest.mark.parametrize("config", [AdamWConfig(), AdafactorConfig()])
def test_missing_state_is_refused(config):
    model = torch.nn.Linear(3, 2)
    optimizer = build_optimizer(config, model)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    tensors, scalars = export_state(optimizer)
    fresh = build_optimizer(config, torch.nn.Linear(3, 2))
    for cut in ({}, {n: t for n, t in tensors.items() if n.startswith("bias")}):
        with pytest.raises(CheckpointError, match=r"lacks optimiser state of .*weight"):
            restore_state(fresh, cut, scalars, (), "runs/x")
    with pytest.raises(CheckpointError, match="lacks optimiser state"):
        restore_state(fresh, {}, {}, (), "runs/x")
    restore_state(fresh, {}, {}, ("weight", "bias"), "runs/x")


def test_state_of_other_factors_is_refused():
    weight = torch.nn.Parameter(torch.ones(4, 4))
    optimizer = Adafactor([weight], lr=0.1, min_factored=8)
    weight.grad = torch.ones(4, 4)
    optimizer.step()
    optimizer.param_groups[0]["min_factored"] = 2
    with pytest.raises(UserError, match=r"optimizer\.min_factored = 2"):
        optimizer.step()


def test_tables_do_not_decay():
    model = build(T5)
    groups = build_optimizer(AdamWConfig(weight_decay=0.1), model).param_groups
    decayed = [n for group in groups if group["weight_decay"] for n in group["param_names"]]
    assert decayed and not any("position_bias" in n or "embedding" in n for n in decayed)
