"""Our experts in a block of the library, compiled."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from transformers.integrations import moe as theirs

from tests.integrations.transformers.families import apart, built
from turnout.integrations.transformers import use


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
def test_it_is_one_graph_and_stays_it(family, monkeypatch):
    monkeypatch.setattr(theirs.ExpertsInterface, "_global_mapping", {})
    use()
    block = built(family, experts_implementation="turnout").model.layers[0].mlp
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(block, backend=counter, fullgraph=True)
    for seed in (3, 4):  # other loads
        x = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(seed))
        found = []
        for way in (block, compiled):
            said = way(x.clone())
            y = said[0] if family == "gpt_oss" else said
            grads = torch.autograd.grad(y.square().sum(), list(block.parameters()))
            found.append([y.detach(), *grads])
        assert all(apart(one, other) < 1e-5 for one, other in zip(*found, strict=True))
    assert counter.frame_count == 1
