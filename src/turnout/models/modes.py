"""Training and evaluation mode, for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from turnout.models.base import Model


@contextmanager
def evaluating(*models: Model) -> Iterator[None]:
    """Within it the models are in evaluation mode; behind it in the mode that each was in."""
    with _mode(models, training=False):
        yield


@contextmanager
def training(*models: Model) -> Iterator[None]:
    """Within it the models are in training mode; behind it in the mode that each was in."""
    with _mode(models, training=True):
        yield


@contextmanager
def _mode(models: tuple[Model, ...], *, training: bool) -> Iterator[None]:
    before = [model.training for model in models]
    try:
        for model in models:
            model.train(training)
        yield
    finally:
        for model, mode in zip(models, before, strict=True):
            model.train(mode)
