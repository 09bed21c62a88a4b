"""The linear map of either library compiles without a break."""

import pytest
import torch

from turnout.nn import onednn
from turnout.nn.linear import linear


@pytest.mark.parametrize("faster", [False, True])
def test_the_linear_map_compiles_whole(monkeypatch: pytest.MonkeyPatch, faster: bool) -> None:
    for name, value in {"FASTER": faster, "SMALL": 0, "BRIEF": 1}.items():
        monkeypatch.setattr(onednn, name, value)
    x, weight = torch.randn(3, 8, requires_grad=True), torch.randn(6, 8, requires_grad=True)
    compiled = torch.compile(linear, fullgraph=True, backend="aot_eager")
    found, expected = compiled(x, weight), x @ weight.t()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    for one, other in zip(
        torch.autograd.grad(found.square().sum(), (x, weight)),
        torch.autograd.grad(expected.square().sum(), (x, weight)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
