"""No token reads its future, where that is claimed."""

import torch
from torch import Tensor

from turnout.conformance.leak import Leak, measure
from turnout.conformance.properties.base import NotAsked, Property, require
from turnout.conformance.samples import LENGTH, context, full, states
from turnout.conformance.subject import Setting, Subject

DRAWS_A_PLACE = 7  # 105 draws with 16 positions


def causal(subject: Subject) -> str:
    """With and without capacity, in training and evaluation."""
    settings = [Setting()]
    if subject.takes_capacity:
        settings += [Setting(capacity=0.5, evaluation=0.5), Setting(capacity=1.0, evaluation=1.0)]
    claimed = [setting for setting in settings if subject.causal(setting)]
    if not claimed:
        found = sum((leak_of(subject, setting, True) for setting in settings), Leak(0, 0, 0.0))
        raise NotAsked(f"it declares that it is not; measured in training: {found.text()}")
    total = Leak(0, 0, 0.0)
    for setting in claimed:
        # A stranger's noise goes by the shape of its input, which cutting changes.
        for training in (True, False) if subject.white_box else (False,):
            total = total + leak_of(subject, setting, training)
    require(total.moved == 0, total.text())
    return total.text()


def leak_of(subject: Subject, setting: Setting, training: bool) -> Leak:
    """The leak of one form of a subject, in draws of random rows."""
    layer = subject.layer(setting).train(training)

    def run(x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        seen = subject.see(layer, x, context(full(x.shape[0], x.shape[1])))
        return seen.y, () if seen.decision is None else (seen.decision.expert,)

    rows, length = DRAWS_A_PLACE, LENGTH + 1
    return measure(
        run,
        states(subject.d_model, rows, length, seed=5),
        torch.randn(rows, length, subject.d_model, generator=torch.Generator().manual_seed(6)),
    )


CAUSALITY = (Property("causal", causal),)
