"""What a run was tuned with is not that of the model made of it."""

import pytest

from turnout.config.errors import UserError
from turnout.convert.api import load
from turnout.models.adapters import carried
from turnout.surgery import experts
from turnout.surgery.layers import counts
from turnout.surgery.opened import open_source
from turnout.surgery.operate import Job
from turnout.train.session import saved_config


def operate(run, target, optimizer="drop"):
    """Two more experts, copies of the first."""
    config = saved_config(run).model
    surgery = experts.grow(config, 2, {name: [0] for name in counts(config)}, noise=0.1)
    return Job(surgery, (open_source(str(run)),), {}, optimizer).planned().write(target)


def test_adapters_are_merged_and_gone(runs, tmp_path):
    run = runs(**{"lora.rank": "2"})
    assert saved_config(run).lora is not None
    operate(run, tmp_path / "out")
    new = saved_config(tmp_path / "out")
    assert new.lora is None
    assert not list(carried(load(tmp_path / "out")))
    assert new.model.moe.num_experts == 6


def test_an_adapters_state_is_not_its_matrix_state(runs, tmp_path):
    run = runs(**{"lora.rank": "2"})
    with pytest.raises(UserError, match="trains adapters, which are merged"):
        operate(run, tmp_path / "out", "keep")
    assert not (tmp_path / "out").exists()


def test_all_weights_train_again(runs, tmp_path):
    run = runs(**{"train.trained": '["router"]', "train.patience": "3"})
    operate(run, tmp_path / "out")
    assert saved_config(tmp_path / "out").train.trained == ("all",)
    assert saved_config(tmp_path / "out").train.patience == 0
