"""Adding and removing a domain's expert where rows are routed by their label."""

from dataclasses import replace

import pytest
import torch

import turnout
from tests.surgery.models import BIASED, built, decoder, sparse
from turnout.checkpoint import folders
from turnout.config import io
from turnout.config.errors import UserError
from turnout.config.mixture import MixtureConfig, SourceConfig
from turnout.config.routers import LabelRouter
from turnout.config.train import DataConfig, RunConfig
from turnout.convert.native import open_native, split, write_native
from turnout.convert.source import Held
from turnout.surgery.domains import add_domain, remove_domain
from turnout.surgery.opened import open_source
from turnout.surgery.operate import Job
from turnout.surgery.rows import random_rows


def run_of(labels, experts, path):
    """A run over as many sources as labels; ``turnout.save`` knows models without a mixture."""
    config = decoder(BIASED, sparse(experts, router=LabelRouter(labels)))
    sources = tuple(SourceConfig(f"source_{n}", (f"{n}.txt",)) for n in range(labels))
    run = RunConfig(config, data=DataConfig(mixture=MixtureConfig(sources)))
    held = Held(built(config))
    plans = split([held.planned(name) for name in held.names], 10**9)
    meta = {"step": 0, "tokens": 0, "config": io.to_dict(run)}
    write_native(folders.step_folder(path, 0), meta, plans, map(held.read, held.names))
    return path


def operate(surgery, run, target):
    return Job(surgery, (open_source(str(run)),), {}, rows=random_rows).planned().write(target)


def experts_of(path, part="w_in"):
    state = turnout.load(path).state_dict()
    return state[f"decoder.blocks.0.feed_forward.moe.experts.{part}"]


def test_an_expert_is_added_behind_the_labels_and_taken_away_again(tmp_path):
    """With five experts for three labels the new one stands at 3, and 3 and 4 move up."""
    run = run_of(3, 5, tmp_path / "run")
    config = turnout.load(run).config
    receipt = operate(add_domain(config, 1), run, tmp_path / "more")
    assert receipt.expected == "preserved" and receipt.compared.logits <= 1e-6
    # Labels 0, 1, 2, 3 in turn over four rows of 48 tokens; the old model has no label 3.
    assert receipt.compared.tokens == 3 * 48
    new = turnout.load(tmp_path / "more").config
    assert new.moe.router == LabelRouter(4) and new.moe.num_experts == 6
    old = experts_of(run)
    assert torch.equal(experts_of(tmp_path / "more"), old[[0, 1, 2, 1, 3, 4]])
    assert receipt.back.endswith("--remove 3")
    operate(remove_domain(new, 3), tmp_path / "more", tmp_path / "back")
    assert torch.equal(experts_of(tmp_path / "back"), old)
    assert turnout.load(tmp_path / "back").config == config


def test_a_new_domain_may_begin_as_the_mean(tmp_path):
    run = run_of(3, 3, tmp_path / "run")
    operate(add_domain(turnout.load(run).config, None), run, tmp_path / "more")
    old, new = experts_of(run), experts_of(tmp_path / "more")
    assert torch.allclose(new[3], old.mean(0), rtol=1e-6, atol=1e-7)


def test_a_domain_that_goes_takes_its_source_along(tmp_path):
    run = run_of(3, 3, tmp_path / "run")
    receipt = operate(remove_domain(turnout.load(run).config, 0), run, tmp_path / "fewer")
    assert receipt.expected == "preserved" and receipt.compared.logits <= 1e-6
    assert torch.equal(experts_of(tmp_path / "fewer"), experts_of(run)[1:])
    sources = open_native(tmp_path / "fewer").run.data.mixture.sources
    assert [source.name for source in sources] == ["source_1", "source_2"]


def test_the_wrong_expert_is_noticed(tmp_path):
    """Without label 0, but as if label 1 were still label 1."""
    run = run_of(3, 3, tmp_path / "run")
    wrong = replace(remove_domain(turnout.load(run).config, 0), labels=(0, 1))
    with pytest.raises(UserError, match="the function was to stay"):
        operate(wrong, run, tmp_path / "fewer")
    assert not (tmp_path / "fewer").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda c: add_domain(c, 3), "--of = 3: must be a label, 0 to 2"),
        (lambda c: add_domain(c, 0, -1.0), "--noise = -1.0"),
        (lambda c: remove_domain(c, 3), "--remove = 3: must be a label, 0 to 2"),
    ],
)
def test_what_cannot_be_is_one_line(make, message, tmp_path):
    config = turnout.load(run_of(3, 3, tmp_path / "run")).config
    with pytest.raises(UserError) as caught:
        make(config)
    assert message in str(caught.value)


def test_the_last_domain_stays_and_other_routers_are_refused(tmp_path):
    config = turnout.load(run_of(1, 1, tmp_path / "run")).config
    with pytest.raises(UserError, match="must be one of several"):
        remove_domain(config, 0)
    with pytest.raises(UserError, match="must be 'label'"):
        add_domain(decoder(moe=sparse()), 0)
