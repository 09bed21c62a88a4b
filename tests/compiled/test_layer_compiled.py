"""The layer compiles whole, keeps one graph whatever the counts, and traces on fake tensors."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from tests.kernels.cases import BUILDS
from tests.moe.cases import ROUTERS, full_mask, hidden, relative_error, small_layer, told
from turnout.kernels.grouped import GROUPED
from turnout.moe import RoutingContext
from turnout.moe.dispatch import EinsumDispatcher


def outcomes(layer, run, seed):
    x = hidden(2, 16, seed=seed).requires_grad_()
    context = told(
        RoutingContext.build(
            full_mask(2, 16), keys=torch.tensor([seed, seed + 1]), progress=seed / 4
        )
    )
    y, stats, decision = run(x, context)
    loss = y.square().sum() + stats.router.probability.square().sum() + stats.router.z.sum()
    grads = torch.autograd.grad(loss, [x, *layer.parameters()], allow_unused=True)
    return y.detach(), decision.expert, stats.kept, [g for g in grads if g is not None]


def check_compiled(layer, backend):
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    outcomes(layer, compiled, 0)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for seed in (1, 2, 3):  # other tokens, so other counts, at another time of the run
            expected, found = outcomes(layer, layer, seed), outcomes(layer, compiled, seed)
            assert torch.equal(found[1], expected[1]) and torch.equal(found[2], expected[2])
            assert relative_error(found[0], expected[0]) < 1e-5
            for one, two in zip(found[3], expected[3], strict=True):
                assert relative_error(one, two) < 1e-5


FAST = ("switch_jitter", "top_2", "noisy_top_2", "ntlb", "expert_choice_capped", "base")
TIERS = [pytest.param(n, marks=[] if n in FAST else [pytest.mark.slow]) for n in ROUTERS]


@pytest.mark.parametrize("capacity", [None, 1.0])
@pytest.mark.parametrize("name", TIERS)
def test_one_graph_for_all_counts(name, capacity):
    layer = small_layer(ROUTERS[name], group_tokens=16, train_capacity_factor=capacity).train()
    check_compiled(layer, "aot_eager")


@pytest.mark.parametrize("product", ["native", "auto"] if BUILDS else [])
def test_kernels_in_c_are_part_of_the_graph(product, monkeypatch):
    monkeypatch.setattr(GROUPED, "preferred", GROUPED.dtypes)
    layer = small_layer(ROUTERS["top_2"], group_tokens=16, product=product).train()
    check_compiled(layer, "aot_eager")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["switch_jitter", "top_2", "expert_choice", "base"])
def test_inductor_gives_the_same(name):
    layer = small_layer(ROUTERS[name], group_tokens=16, train_capacity_factor=1.0).train()
    check_compiled(layer, "inductor")


@pytest.mark.parametrize("name", ROUTERS)
def test_it_traces_under_fake_tensors(name):
    layer = small_layer(ROUTERS[name], train_capacity_factor=1.0).train()
    with FakeTensorMode(allow_non_fake_inputs=True):
        context = told(RoutingContext.of(torch.ones(3, 8, dtype=torch.bool)))
        x = torch.randn(3, 8, 8, requires_grad=True)
        for way in (layer, layer.with_dispatcher(EinsumDispatcher())):
            y, stats, _ = way(x, context)
            assert isinstance(y, FakeTensor)
            assert y.shape == (3, 8, 8) and stats.kept.shape == (3, 4)
            (y.sum() + stats.router.z.sum()).backward()
