"""A run ends where held-out text has not become better for a while."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from turnout.checkpoint import folders
from turnout.config.train import RunConfig
from turnout.train import trainer as module
from turnout.train.report import Evaluation
from turnout.train.session import open_session
from turnout.train.trainer import Trainer


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[int, float]]:
    """What evaluations say, by step."""
    said: dict[int, float] = {}
    true = module.evaluate

    def evaluate(model, objective, batches, step, sources, ranks):  # type: ignore[no-untyped-def]
        found: Evaluation = true(model, objective, batches, step, sources, ranks)
        return replace(found, loss=said[step])

    monkeypatch.setattr(module, "evaluate", evaluate)
    yield said


def test_ends_after_that_many_evaluations_without_a_better_one(
    tiny_run: RunConfig, tmp_path: Path, losses: dict[int, float]
) -> None:
    # The best is at step 4; 6 and 8 are worse: two evaluations of patience are over at step 8.
    losses.update({2: 5.0, 4: 3.0, 6: 3.5, 8: 3.0, 10: 1.0})
    train = replace(tiny_run.train, steps=10, eval_every=2, patience=2, save_every=100)
    session = open_session(replace(tiny_run, train=train))
    assert Trainer.of(session, tmp_path).run().step == 8
    saved = [step for step, _ in folders.saved_steps(tmp_path)]
    assert saved[-1] == 8
    assert 4 in saved  # the best is kept

    # A run that ended so and is resumed ends again, without a step.
    again = open_session(replace(tiny_run, train=train), tmp_path)
    assert Trainer.of(again, tmp_path).run().step == 8


def test_without_patience_it_goes_on(
    tiny_run: RunConfig, tmp_path: Path, losses: dict[int, float]
) -> None:
    losses.update({2: 1.0, 4: 3.0, 6: 3.5, 8: 3.0, 10: 4.0})
    train = replace(tiny_run.train, steps=10, eval_every=2)
    assert Trainer.of(open_session(replace(tiny_run, train=train)), tmp_path).run().step == 10
