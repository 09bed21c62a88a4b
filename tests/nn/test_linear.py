"""The linear map by either library: outputs and gradients against float64."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from turnout.nn import onednn
from turnout.nn.linear import Linear, linear


@pytest.fixture(params=[False, True], ids=["torch", "onednn"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether oneDNN multiplies, whatever the sizes and the processor."""
    for name, value in {"FASTER": request.param, "SMALL": 0, "BRIEF": 1}.items():
        monkeypatch.setattr(onednn, name, value)
    return bool(request.param)


@pytest.mark.parametrize("shape", [(3,), (2, 5), (2, 3, 4), (0,), (2, 0), (1, 1)])
@pytest.mark.parametrize("bias", [False, True])
def test_outputs_and_gradients(library: bool, shape: tuple[int, ...], bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)

    def drawn(*sizes: int) -> torch.Tensor:
        return torch.randn(sizes, generator=generator).requires_grad_()

    x, weight, added = drawn(*shape, 8), drawn(6, 8), drawn(6) if bias else None
    leaves = [leaf for leaf in (x, weight, added) if leaf is not None]
    out = linear(x, weight, added)
    upstream = torch.randn(out.shape, generator=generator)
    found = torch.autograd.grad((out * upstream).sum(), leaves)

    wide = x.double() @ weight.double().t()
    wide = wide if added is None else wide + added.double()
    expected = torch.autograd.grad((wide * upstream).sum(), leaves)
    assert ("turnout" in str(linear(x, weight).grad_fn)) == (library and x.numel() > 0)
    torch.testing.assert_close(out.double(), wide, rtol=0, atol=1e-5)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_its_arithmetic_is_counted(library: bool) -> None:
    layer = Linear(8, 6)
    torch.nn.init.ones_(layer.weight)
    with FlopCounterMode(display=False) as counter:
        layer(torch.ones(2, 5, 8, requires_grad=True)).sum().backward()
    # 2 * 10 rows * 8 * 6, forward and for each of the two gradients
    assert counter.get_total_flops() == 3 * 2 * 10 * 8 * 6


def test_the_operator_keeps_torch_library_s_rules() -> None:
    arguments = (torch.randn(2, 3, 8, requires_grad=True), torch.randn(6, 8, requires_grad=True))
    torch.library.opcheck(torch.ops.turnout.linear.default, arguments)


def test_what_is_too_little_to_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "FASTER", True)
    # 32,768 elements at the least, 4,194,304 multiplications where calls are dear: 128 rows of them
    assert onednn.takes(torch.float32, "cpu", 1 << 15)
    assert not onednn.takes(torch.float32, "cpu", (1 << 15) - 1)
    assert onednn.takes(torch.float32, "cpu", 1 << 15, rows=128)
    assert not onednn.takes(torch.float32, "cpu", 1 << 15, rows=127)
    assert not onednn.takes(torch.bfloat16, "cpu", 1 << 20)
    assert not onednn.takes(torch.float32, "cuda", 1 << 20)
