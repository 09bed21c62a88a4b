"""The same under recomputation and under the compiler."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from turnout.conformance.properties.base import Property, close, require, same_sums, sums
from turnout.conformance.samples import LENGTH, context, full, ragged, states
from turnout.conformance.subject import Seen, Setting, Subject

STEPS = 2  # what keeps a state shows it in the second


def recomputation(subject: Subject) -> str:
    """Activation checkpointing changes no output, gradient or count, over several steps."""
    plain, again = (_steps(subject, recompute) for recompute in (False, True))
    for (seen, grads), (other, recomputed) in zip(plain, again, strict=True):
        close(other.y, seen.y, "output under recomputation")
        same_sums(sums(other), sums(seen), "under recomputation")
        for found, expected in zip(recomputed, grads, strict=True):
            close(found, expected, "a gradient under recomputation")
    return "outputs, gradients and counts of two steps are equal"


def _steps(subject: Subject, recompute: bool) -> list[tuple[Seen, list[Tensor]]]:
    layer = subject.layer(Setting(capacity=1.0))
    found = []
    for step in range(STEPS):
        where = context(ragged() if subject.pads else full(), salt=step)
        x = states(subject.d_model, seed=step).requires_grad_()
        seen = (
            checkpoint(subject.see, layer, x, where, use_reentrant=False)
            if recompute
            else subject.see(layer, x, where)
        )
        wanted = [x, *(p for p in layer.parameters() if p.requires_grad)]
        grads = torch.autograd.grad(
            seen.y[where.mask].square().sum(), wanted, allow_unused=True, materialize_grads=True
        )
        found.append((seen, list(grads)))
    return found


def compiled(subject: Subject, backend: str = "aot_eager") -> str:
    """One graph, no recompilation when counts change, equal outputs and counts."""
    torch.compiler.reset()
    layer = subject.layer(Setting(capacity=1.0))
    fast: nn.Module = torch.compile(layer, fullgraph=True, backend=backend)  # type: ignore[assignment]
    _both(subject, layer, fast, 0)
    with torch._dynamo.config.patch(error_on_recompile=True):
        worst = max(_both(subject, layer, fast, seed) for seed in (1, 2))
    torch.compiler.reset()
    return f"one graph ({backend}), outputs within {worst:.1g}, counts equal"


def _both(subject: Subject, layer: nn.Module, fast: nn.Module, seed: int) -> float:
    x, where = states(subject.d_model, length=LENGTH, seed=seed), context(full(), salt=seed)
    expected, found = subject.see(layer, x, where), subject.see(fast, x, where)
    same_sums(sums(found), sums(expected), "when compiled")
    if expected.decision is not None and found.decision is not None:
        same = torch.equal(found.decision.expert, expected.decision.expert)
        require(same, "decisions differ when compiled")
    return close(found.y, expected.y, "output when compiled")


EXECUTION = (
    Property("recomputation", recomputation),
    Property("compiled", compiled),
)
