"""The sources of a mixture: each by itself, and all together."""

from dataclasses import replace

import pytest

from turnout.config.mixture import MixtureConfig, SourceConfig
from turnout.config.objective import PrefixConfig
from turnout.config.train import RunConfig
from turnout.train.evaluate import evaluate
from turnout.train.hooks.figures import evaluation_line
from turnout.train.session import open_session
from turnout.train.trainer import Trainer


@pytest.fixture
def mixed_run(tiny_run: RunConfig) -> RunConfig:
    paths = tiny_run.data.paths
    sources = (SourceConfig("plain", paths), SourceConfig("split", paths, PrefixConfig()))
    data = replace(tiny_run.data, paths=(), mixture=MixtureConfig(sources, block=16))
    return replace(tiny_run, data=data, train=replace(tiny_run.train, eval_rows=8))


def test_each_source_is_what_it_is_alone(mixed_run: RunConfig) -> None:
    session = open_session(mixed_run)
    model, batches = session.state.model, session.data.validation()
    together = evaluate(model, session.objective, batches, 0, session.data.source_names)
    assert list(together.sources) == ["plain", "split"]
    targets = {}
    for number, name in enumerate(together.sources):
        own = [batch for batch in batches if int(batch.labels[0]) == number]
        alone = evaluate(model, session.objective, own)
        assert together.sources[name] == pytest.approx(alone.loss, rel=1e-6)
        targets[name] = alone.targets
    assert together.targets == sum(targets.values())
    nats = sum(together.sources[name] * count for name, count in targets.items())
    assert together.loss == pytest.approx(nats / together.targets, rel=1e-6)
    line = evaluation_line(together, "bits/byte")
    assert line.endswith(f"; plain {together.sources['plain']:.4f}; split {nats_of(together)}")


def nats_of(evaluation: object) -> str:
    return f"{evaluation.sources['split']:.4f}"


def test_a_run_of_one_source_has_none_to_tell_apart(tiny_run: RunConfig) -> None:
    session = open_session(tiny_run)
    found = evaluate(
        session.state.model,
        session.objective,
        session.data.validation(),
        0,
        session.data.source_names,
    )
    assert found.sources == {}


def test_the_trainer_reports_the_sources(mixed_run: RunConfig) -> None:
    session = open_session(mixed_run)
    trainer = Trainer(session.config, session.state, session.data, session.objective)
    assert list(trainer.run().sources) == ["plain", "split"]
