"""Every small model compiles whole and keeps its graph when padding and counts change."""

from dataclasses import replace

import pytest
import torch

from tests.compiled.gradients import assert_alike
from tests.models.cases import CASES, batch_for
from turnout.models import build


@pytest.mark.filterwarnings("default")  # the compiler asks a tensor that is no leaf for its .grad
@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("name", ["switch", "olmoe"])
def test_compiled_blocks_give_the_same_gradients(name, dropout):
    """What train.compile does: the parameters keep their names, the graphs their number."""
    plain, compiled = (build(replace(CASES[name], dropout=dropout)) for _ in range(2))
    for model in (plain, compiled):
        model.init_weights(0)
        model.train()
    assert_alike(name, plain, compiled)


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
