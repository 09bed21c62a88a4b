"""A model's gradients, compiled block by block and not."""

import torch

from tests.models.cases import CASES, batch_for
from turnout.models.base import Model


def assert_alike(name: str, plain: Model, compiled: Model) -> None:
    """Two models of the case ``name`` with equal weights: all gradients are the same, and other
    padding makes no new graph."""
    for stack in compiled.stacks():
        stack.compile_blocks("aot_eager")
    for first, lengths in enumerate(([16, 9], [3, 16])):
        batch = batch_for(CASES[name], lengths, [12, 16])
        with torch._dynamo.config.patch(error_on_recompile=first > 0):
            for model in (plain, compiled):
                torch.manual_seed(5)
                model.zero_grad()
                model(batch).hidden.sin().sum().backward()
        for (one, p), (other, q) in zip(
            plain.named_parameters(), compiled.named_parameters(), strict=True
        ):
            assert one == other
            assert (p.grad is None) == (q.grad is None), one
            if p.grad is not None:
                apart = float((q.grad - p.grad).abs().max())
                assert apart <= 1e-5 * float(p.grad.abs().max()), one
