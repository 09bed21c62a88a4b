"""The model card that every checkpoint carries."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from turnout.checkpoint import folders
from turnout.config import io
from turnout.config.train import RunConfig
from turnout.train.card import CARD
from turnout.train.session import load_run, open_session
from turnout.train.trainer import Trainer


def front_matter(card: str) -> dict[str, str]:
    head = card.split("---\n")[1]
    return dict(line.split(": ", 1) for line in head.splitlines() if ": " in line)


@pytest.fixture
def run(tiny_run: RunConfig, tmp_path: Path) -> Path:
    train = replace(tiny_run.train, steps=4, eval_every=2, save_every=2)
    Trainer.of(open_session(replace(tiny_run, train=train)), tmp_path).run()
    return tmp_path


def test_every_checkpoint_has_one(run: Path) -> None:
    cards = {step: (folder / CARD).read_text() for step, folder in folders.saved_steps(run)}
    assert len(cards) >= 2
    for step, card in cards.items():
        assert f"step {step} of 4" in card


def test_it_says_what_the_model_is(run: Path, tiny_run: RunConfig) -> None:
    card = (folders.latest(run) / CARD).read_text()
    config, _ = load_run(run)
    assert front_matter(card)["library_name"] == "turnout"
    tasks = {"causal": "text-generation", "span": "text2text-generation"}
    assert front_matter(card)["pipeline_tag"] == tasks[config.objective.kind]
    assert "- mixture-of-experts" in card
    assert f"| Parameters | {config.model.num_params():,} |" in card
    assert f"| Parameters that act on a token | {config.model.num_active_params():,} |" in card
    assert config.model.moe is not None
    assert f"{config.model.moe.num_experts} experts in each sparse layer" in card
    assert re.search(r"\| Held-out loss \| \d+\.\d{4} nats a target at step [24]", card)
    # The configuration in it builds the run again.
    toml = card.split("```toml\n")[1].split("```")[0]
    (run / "again.toml").write_text(toml)
    assert io.load_toml(run / "again.toml") == config


def test_before_an_evaluation_it_says_so(tiny_run: RunConfig, tmp_path: Path) -> None:
    train = replace(tiny_run.train, steps=2, eval_every=9, save_every=1)
    trainer = Trainer.of(open_session(replace(tiny_run, train=train)), tmp_path)
    trainer.run(until=1)
    first = folders.step_folder(tmp_path, 0) / CARD
    assert "| Held-out loss | not evaluated yet |" in first.read_text()


def test_a_dense_model_names_no_experts(tiny_run: RunConfig, tmp_path: Path) -> None:
    dense = replace(tiny_run, model=replace(tiny_run.model, moe=None))
    train = replace(tiny_run.train, steps=1)
    Trainer.of(open_session(replace(dense, train=train)), tmp_path).run()
    card = (folders.latest(tmp_path) / CARD).read_text()
    kind = tiny_run.model.kind.replace("_", "-")
    assert f"A dense {kind} Transformer" in card and "mixture-of-experts" not in card
