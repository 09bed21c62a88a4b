"""Every small model compiles whole and keeps its graph when padding and counts change."""

import pytest
import torch

from tests.models.cases import CASES, batch_for
from turnout.models import build


@pytest.mark.parametrize("name", ["switch", "olmoe"])
def test_compiled_blocks_give_the_same_gradients(name):
    """What train.compile does: the parameters keep their names, the graphs their number."""
    plain, compiled = build(CASES[name]), build(CASES[name])
    for model in (plain, compiled):
        model.init_weights(0)
    for stack in compiled.stacks():
        stack.compile_blocks("aot_eager")
    for first, lengths in enumerate(([16, 9], [3, 16])):
        batch = batch_for(CASES[name], lengths, [12, 16])
        with torch._dynamo.config.patch(error_on_recompile=first > 0):
            for model in (plain, compiled):
                model.zero_grad()
                model(batch).hidden.square().sum().backward()
        for (one, p), (other, q) in zip(
            plain.named_parameters(), compiled.named_parameters(), strict=True
        ):
            assert one == other
            if p.grad is not None:
                torch.testing.assert_close(q.grad, p.grad, msg=one)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_one_graph_for_all_padding(name):
    model = build(CASES[name])
    model.init_weights(0)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for first, lengths in enumerate(([16, 9], [3, 16])):
        batch = batch_for(CASES[name], lengths, [12, 16])
        with torch._dynamo.config.patch(error_on_recompile=first > 0):
            got, expected = compiled(batch), model(batch)
        torch.testing.assert_close(got.hidden, expected.hidden)
        for one, other in zip(got.layers, expected.layers, strict=True):
            assert torch.equal(one.kept, other.kept)
