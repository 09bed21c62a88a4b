"""The chunked loss is the plain one, gradients included, and holds no more than a chunk."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from turnout.models import head as head_module
from turnout.models.head import Head, HeadLoss

VOCABULARY, WIDTH = 11, 6


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 5, WIDTH, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator).requires_grad_()
    targets = torch.randint(VOCABULARY, (3, 5), generator=generator)
    mask = torch.rand(3, 5, generator=generator) < 0.7
    return hidden, weight, targets, mask


def plain(
    hidden: Tensor, weight: Tensor, targets: Tensor, mask: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    logits = (hidden * scale) @ weight.t()
    nats = F.cross_entropy(logits[mask], targets[mask], reduction="sum")
    return nats, logits[mask].logsumexp(-1).square().sum()


@pytest.fixture(params=[1, 4, 100], ids=lambda rows: f"{rows}_rows_a_chunk")
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    rows: int = request.param
    monkeypatch.setattr(head_module, "CHUNK_ELEMENTS", rows * VOCABULARY)
    return rows


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_loss_and_gradients_are_the_plain_ones(chunk: int, scale: float) -> None:
    hidden, weight, targets, mask = inputs()
    loss = Head(weight, scale).cross_entropy(hidden, targets, mask, z_weight=0.3)
    got = torch.autograd.grad(loss.total / 7, (hidden, weight))
    nats, z = plain(hidden.double(), weight.double(), targets, mask, scale)
    expected = torch.autograd.grad((nats + 0.3 * z) / 7, (hidden, weight))
    for found, exact in ((loss.total, nats + 0.3 * z), (loss.nats, nats), (loss.z, z)):
        assert found.item() == pytest.approx(exact.item(), rel=1e-6)
    assert not (loss.nats.requires_grad or loss.z.requires_grad)
    assert loss.count.item() == mask.sum().item()
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other.to(one.dtype), atol=1e-5, rtol=1e-5)
    assert torch.equal(got[0][~mask], torch.zeros_like(got[0][~mask]))


def test_without_a_weight_the_z_term_is_counted_alone(chunk: int) -> None:
    hidden, weight, targets, mask = inputs()
    loss = Head(weight).cross_entropy(hidden, targets, mask)
    assert torch.equal(loss.total, loss.nats)
    nats, z = plain(hidden, weight, targets, mask, 1.0)
    torch.testing.assert_close(loss.z, z)
    one, other = (torch.autograd.grad(total, (hidden, weight)) for total in (loss.total, nats))
    torch.testing.assert_close(one, other)


def test_gradients_of_what_trains(chunk: int) -> None:
    """Of frozen weights, or of hidden states that nobody asks for, none is made."""
    hidden, weight, targets, mask = inputs()
    nats, _ = plain(hidden, weight, targets, mask, 1.0)
    for_hidden, for_weight = torch.autograd.grad(nats, (hidden, weight))
    frozen = Head(weight.detach()).cross_entropy(hidden, targets, mask)
    torch.testing.assert_close(torch.autograd.grad(frozen.total, hidden)[0], for_hidden)
    alone = Head(weight).cross_entropy(hidden.detach(), targets, mask)
    torch.testing.assert_close(torch.autograd.grad(alone.total, weight)[0], for_weight)
    with torch.no_grad():
        without = Head(weight).cross_entropy(hidden, targets, mask)
    assert not without.total.requires_grad
    torch.testing.assert_close(without.total, nats.detach())


def test_a_second_backward_pass_is_refused() -> None:
    """The first one scales the gradients where they are."""
    hidden, weight, targets, mask = inputs()
    total = Head(weight).cross_entropy(hidden, targets, mask).total / 7
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


def test_two_passes_have_the_mean_of_their_losses() -> None:
    hidden, weight, targets, mask = inputs()
    head = Head(weight)
    one, other = (
        head.cross_entropy(factor * hidden, targets, mask, z_weight=0.5) for factor in (1.0, 3.0)
    )
    both = one.mean(other)
    for name in ("total", "nats", "z"):
        mean = (getattr(one, name) + getattr(other, name)) / 2
        assert torch.equal(getattr(both, name), mean)
    assert torch.equal(both.count, mask.sum())


def test_uniform_logits_by_hand() -> None:
    # Zero hidden states: every token costs ln V, and its log-sum-exp is ln V as well.
    mask = torch.tensor([[True, True, False]])
    loss = Head(torch.randn(VOCABULARY, WIDTH)).cross_entropy(
        torch.zeros(1, 3, WIDTH), torch.zeros(1, 3, dtype=torch.int64), mask, z_weight=0.5
    )
    assert loss.nats.item() == pytest.approx(2 * math.log(VOCABULARY))
    assert loss.z.item() == pytest.approx(2 * math.log(VOCABULARY) ** 2)
    # 2 ln V + 0.5 x 2 ln^2 V
    assert loss.total.item() == pytest.approx(2 * math.log(VOCABULARY) + math.log(VOCABULARY) ** 2)


def test_no_target_at_all() -> None:
    hidden, weight, targets, mask = inputs()
    loss = Head(weight).cross_entropy(hidden, targets, torch.zeros_like(mask), z_weight=1.0)
    assert (loss.nats.item(), loss.z.item(), loss.count.item()) == (0, 0, 0)
    gradients = torch.autograd.grad(loss.total, (hidden, weight))
    assert all(torch.equal(g, torch.zeros_like(g)) for g in gradients)


def test_bf16_is_at_most_half_as_wrong_again_as_the_plain_bf16_loss() -> None:
    hidden, weight, targets, mask = inputs(torch.bfloat16)
    exact = torch.autograd.grad(
        plain(hidden.double(), weight.double(), targets, mask, 1.0)[0], (hidden, weight)
    )
    oracle_logits = F.linear(hidden, weight.bfloat16()).float()
    oracle = torch.autograd.grad(
        F.cross_entropy(oracle_logits[mask], targets[mask], reduction="sum"), (hidden, weight)
    )
    loss = Head(weight).cross_entropy(hidden, targets, mask)
    got = torch.autograd.grad(loss.total, (hidden, weight))
    for mine, theirs, truth in zip(got, oracle, exact, strict=True):
        allowed = 1.5 * (theirs.double() - truth.double()).norm()
        assert (mine.double() - truth.double()).norm() <= allowed


class _Largest(TorchDispatchMode):
    """Remembers the most elements any result has."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple) else (result,):
            if isinstance(value, Tensor):
                self.elements = max(self.elements, value.numel())
        return result


def test_nothing_is_as_large_as_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_module, "CHUNK_ELEMENTS", 4 * 64)
    hidden = torch.randn(2, 32, WIDTH, requires_grad=True)
    weight = torch.randn(64, WIDTH, requires_grad=True)
    targets, mask = torch.zeros(2, 32, dtype=torch.int64), torch.ones(2, 32) > 0
    with _Largest() as largest:
        loss: HeadLoss = Head(weight).cross_entropy(hidden, targets, mask, z_weight=1.0)
        loss.total.backward()
    # 64 tokens of width 6 or 64 x 6 weights are 384 elements, a chunk 256, all logits 4,096.
    assert largest.elements == 384
