"""Evaluation: the language loss alone, the same however the rows are cut, nothing changed."""

from dataclasses import replace

import pytest
import torch

from turnout import objectives
from turnout.config.train import RunConfig
from turnout.data.bits import text_bytes
from turnout.train.dropout import seed_dropout
from turnout.train.evaluate import evaluate
from turnout.train.session import open_session


def test_cuts_change_nothing_and_the_mode_comes_back(tiny_run: RunConfig) -> None:
    found = []
    for parts in (1, 2, 4):
        train = replace(tiny_run.train, micro_batches=parts)
        session = open_session(replace(tiny_run, train=train))
        model = session.state.model.train()
        before = torch.get_rng_state()
        found.append(evaluate(model, session.objective, session.data.validation(), 7))
        assert model.training
        assert torch.equal(torch.get_rng_state(), before)
        assert found[-1].bits == pytest.approx(session.data.bits_per_byte(found[-1].loss))
    for other in found[1:]:
        assert other.loss == pytest.approx(found[0].loss, rel=1e-5)
        assert other.terms == pytest.approx(found[0].terms, rel=1e-4, abs=1e-5)
        assert (other.step, other.targets, other.bytes) == (7, found[0].targets, found[0].bytes)


def test_the_loss_is_free_of_the_other_terms(tiny_run: RunConfig) -> None:
    session = open_session(tiny_run)
    batches = session.data.validation()
    heavy = objectives.build(replace(tiny_run.losses, balance=100.0), tiny_run.model)
    one = evaluate(session.state.model, session.objective, batches)
    two = evaluate(session.state.model, heavy, batches)
    assert one.loss == two.loss
    assert one.terms == two.terms
    assert one.terms["balance"] > 0


def test_bytes_are_counted_without_ends_and_sentinels(tiny_run: RunConfig) -> None:
    session = open_session(tiny_run)
    batches = session.data.validation()
    targets, counted = session.data.validation_targets()
    text = sum(
        int(((batch.targets >= 3) & (batch.targets < 259) & batch.target_mask).sum())
        for batch in batches
    )
    assert text_bytes(batches) == text == counted
    assert sum(int(batch.target_mask.sum()) for batch in batches) == targets
    if tiny_run.objective.kind == "span":
        assert text < targets


def test_dropout_is_a_function_of_seed_step_and_micro_batch() -> None:
    def draw(*key: int) -> float:
        seed_dropout(*key)
        return float(torch.rand(()))

    assert draw(1, 2, 3) == draw(1, 2, 3)
    assert len({draw(0, 0, 0), draw(1, 0, 0), draw(0, 1, 0), draw(0, 0, 1)}) == 4
