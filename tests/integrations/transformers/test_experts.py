"""Our experts in the library's models: logits and gradients against its own loop."""

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.integrations import moe as theirs

from tests.integrations.transformers.families import FAMILIES, answer, apart, built, text
from tests.kernels.cases import BUILDS, PRODUCTS
from turnout.config.errors import ConfigError, UserError
from turnout.integrations.transformers import use
from turnout.integrations.transformers.experts import implementation
from turnout.kernels.grouped import GROUPED

BOUND = 1e-5


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    use()
    yield
    del theirs.ExpertsInterface._global_mapping["turnout"]


def compare(model: nn.Module, name: str = "turnout") -> None:
    model.set_experts_implementation("eager")
    expected = answer(model)
    model.set_experts_implementation(name)
    found = answer(model)
    far = {key: apart(expected[key], found[key]) for key in expected}
    assert {key: value for key, value in far.items() if value > BOUND} == {}
    assert any(value > 0 for value in far.values())  # another way was taken


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_gradients_are_those_of_the_eager_path(family: str) -> None:
    compare(built(family))


@pytest.mark.parametrize("preferred", [True] if BUILDS else [False])
@pytest.mark.parametrize("family", FAMILIES)
def test_kernels_in_c_where_they_are_preferred(
    family: str, preferred: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then experts are not taken in turn."""
    if preferred:
        monkeypatch.setattr(GROUPED, "preferred", GROUPED.dtypes)
    compare(built(family))


@pytest.mark.parametrize("backend", PRODUCTS)
@pytest.mark.parametrize("family", ["olmoe", "gpt_oss"])
def test_every_backend_of_the_product(family: str, backend: str) -> None:
    use(product=backend)
    compare(built(family))


def test_a_backend_that_does_not_take_the_widths_is_refused() -> None:
    use(product="grouped_mm")
    model = built("olmoe", intermediate_size=3, experts_implementation="turnout")
    with pytest.raises(ConfigError, match=r"moe\.product = 'grouped_mm'"):
        answer(model)


def test_a_model_can_be_built_and_loaded_with_it(tmp_path: object) -> None:
    model = built("mixtral")
    expected = answer(model)["logits"]
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, experts_implementation="turnout")
    assert loaded.config._experts_implementation == "turnout"
    assert apart(expected, answer(loaded)["logits"]) < BOUND


def test_it_generates_the_same_text() -> None:
    model = built("qwen3_moe").eval()
    ids, mask = text()
    said = []
    for name in ("eager", "turnout"):
        model.set_experts_implementation(name)
        said.append(
            model.generate(ids, attention_mask=mask.long(), max_new_tokens=6, do_sample=False)
        )
    torch.testing.assert_close(*said, rtol=0, atol=0)


@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("preferred", [False, True] if BUILDS else [False])
def test_half_precision_is_as_near_to_float64_as_the_eager_path(
    autocast: bool, preferred: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under autocast weights stay float32; without, the whole model is in bfloat16."""
    if preferred:
        monkeypatch.setattr(GROUPED, "preferred", GROUPED.dtypes)
    model = built("olmoe")
    exact = answer(copy.deepcopy(model).double())
    if not autocast:
        model = model.bfloat16()
    error = {}
    for name in ("eager", "turnout"):
        model.set_experts_implementation(name)
        found = answer(model, autocast=autocast)
        assert found["logits"].dtype == torch.bfloat16
        error[name] = {
            key: (found[key].double() - exact[key]).norm() / exact[key].norm()
            for key in exact
            if "experts" in key or key == "logits"
        }
    for key, eager in error["eager"].items():
        assert error["turnout"][key] < 1.5 * eager, key


@theirs.use_experts_implementation
class Plain(nn.Module):
    """Gated by default; the settings below are given to other classes of the same weights."""

    def __init__(self, config: object) -> None:
        super().__init__()
        fill(self, up="gate_up_proj", into=(4, 24, 8), out=(4, 8, 12))
        self.act_fn = nn.SiLU()

    def forward(self, x: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        raise AssertionError


@theirs.use_experts_implementation(has_gate=False, is_transposed=True, has_bias=True)
class Ungated(nn.Module):
    def __init__(self, config: object) -> None:
        super().__init__()
        fill(self, up="up_proj", into=(4, 8, 12), out=(4, 12, 8), bias=12)
        self.act_fn = nn.ReLU()

    def forward(self, x: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        raise AssertionError


@theirs.use_experts_implementation(has_post_expert_norm=True)
class Normed(nn.Module):
    def __init__(self, config: object) -> None:
        super().__init__()
        fill(self, up="gate_up_proj", into=(4, 24, 8), out=(4, 8, 12))
        self.act_fn = nn.SiLU()
        self.post_expert_norm = nn.LayerNorm(8)

    def forward(self, x: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        raise AssertionError


@theirs.use_experts_implementation(has_gate=False)
class Learnt(nn.Module):
    """An activation with a parameter."""

    def __init__(self, config: object) -> None:
        super().__init__()
        fill(self, up="up_proj", into=(4, 12, 8), out=(4, 8, 12))
        self.act_fn = nn.PReLU()

    def forward(self, x: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        raise AssertionError


def fill(
    module: nn.Module, up: str, into: tuple[int, ...], out: tuple[int, ...], bias: int = 0
) -> None:
    generator = torch.Generator().manual_seed(4)
    shapes = {up: into, "down_proj": out}
    if bias:
        shapes |= {f"{up}_bias": (4, bias), "down_proj_bias": (4, 8)}
    for name, shape in shapes.items():
        setattr(module, name, nn.Parameter(torch.randn(*shape, generator=generator)))
    module.num_experts = 4


def loop(module: nn.Module, x: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Token by token, choice by choice."""
    rows = []
    for t in range(x.shape[0]):
        y = torch.zeros(8, dtype=x.dtype)
        for k in range(index.shape[1]):
            e = int(index[t, k])
            if e >= 4:
                continue
            up = module.gate_up_proj[e] if module.has_gate else module.up_proj[e]
            down = module.down_proj[e]
            if module.is_transposed:
                up, down = up.T, down.T
            inner = up @ x[t]
            if module.has_bias:
                inner = inner + module.up_proj_bias[e]
            if module.has_gate:
                inner = module.act_fn(inner[:12]) * inner[12:]
            else:
                inner = module.act_fn(inner)
            out = down @ inner
            if module.has_bias:
                out = out + module.down_proj_bias[e]
            if module.has_post_expert_norm:
                out = module.post_expert_norm(out)
            y = y + weight[t, k] * out
        rows.append(y)
    return torch.stack(rows)


def measured(
    way: Callable[..., Tensor], module: nn.Module, index: Tensor, tokens: int
) -> dict[str, Tensor]:
    """The output and all gradients, that of the combine weights and of the states too."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(tokens, 8, generator=generator).double().requires_grad_()
    weight = torch.rand(tokens, index.shape[1], generator=generator).double().requires_grad_()
    y = way(module, x, index, weight)
    upstream = torch.randn(tokens, 8, generator=generator).double()
    names = ["x", "weight", *(name for name, _ in module.named_parameters())]
    grads = torch.autograd.grad((y * upstream).sum(), [x, weight, *module.parameters()])
    return {"y": y.detach(), **dict(zip(names, grads, strict=True))}


LOADS = {
    "uneven": [[0, 1], [1, 3], [3, 0], [1, 0], [0, 3]],  # expert 2 has no token
    "all to one": [[2], [2], [2]],
    "elsewhere": [[4, 1], [4, 4], [1, 0], [0, 4]],  # 4 is nobody's here
    "twice the same": [[1, 1], [0, 1]],
}


@pytest.mark.parametrize("loads", LOADS)
@pytest.mark.parametrize("kind", [Plain, Ungated, Normed, Learnt])
@pytest.mark.parametrize("product", ["auto", "slices"])
def test_every_layout_against_a_loop_over_tokens(
    kind: type[nn.Module], loads: str, product: str
) -> None:
    module = kind(None).double()
    index = torch.tensor(LOADS[loads])
    tokens = len(index)
    expected = measured(loop, module, index, tokens)
    found = measured(implementation(product), module, index, tokens)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-11, msg=name)


@pytest.mark.parametrize("product", ["auto", "slices"])
def test_no_tokens(product: str) -> None:
    module = Ungated(None)
    x = torch.zeros(0, 8, requires_grad=True)
    empty = torch.zeros(0, 2)
    y = implementation(product)(module, x, empty.long(), empty.clone().requires_grad_())
    y.sum().backward()
    assert y.shape == (0, 8)
    assert all(not each.grad.any() for each in module.parameters())


def test_only_what_needs_a_gradient_gets_one() -> None:
    module = Plain(None)
    module.gate_up_proj.requires_grad_(False)
    x, index = torch.ones(2, 8), torch.tensor([[0], [1]])
    implementation()(module, x, index, torch.ones(2, 1)).sum().backward()
    assert module.gate_up_proj.grad is None and module.down_proj.grad.any()


def test_a_version_without_the_interface_gets_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(theirs, "ALL_EXPERTS_FUNCTIONS")
    with pytest.raises(UserError, match=r"^transformers .*: has no experts interface; install"):
        use()


def test_a_version_that_lacks_a_layout_gets_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(theirs, "use_experts_implementation", lambda experts, is_transposed: None)
    with pytest.raises(UserError, match="do not say has_bias, has_gate, has_post_expert_norm"):
        use()
