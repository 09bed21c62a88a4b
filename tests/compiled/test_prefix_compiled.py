"""A visible prefix compiles to one graph, whatever its length."""

from dataclasses import replace

import pytest
import torch

from tests.models.cases import CASES, LENGTH, batch_of, stream
from turnout.models import build


@pytest.mark.slow
@pytest.mark.parametrize("name", ["olmoe", "sparse_glam"])
def test_one_graph_for_all_prefixes(name):
    model = build(CASES[name])
    model.init_weights(0)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    rows = stream([16, 9], LENGTH)
    for first, prefix in enumerate((5, 0, 12)):
        batch = batch_of(replace(rows, visible=rows.mask & (rows.position < prefix)))
        with torch._dynamo.config.patch(error_on_recompile=first > 0):
            got, expected = compiled(batch), model(batch)
        torch.testing.assert_close(got.hidden, expected.hidden)
