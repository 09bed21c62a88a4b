"""What a run says of adapters: its table, its options, what it refuses."""

import pytest

from turnout.config import io, presets
from turnout.config.errors import ConfigError, UserError
from turnout.config.lora import LoraConfig
from turnout.config.train import RunConfig
from turnout.plan.hardware import Assumptions, device_of
from turnout.plan.search import Question

RUN = presets.run("switch_tiny")


def test_a_run_has_none_unless_asked() -> None:
    assert RUN.lora is None
    assert io.to_dict(RUN)["lora"] == "none"
    without = {name: value for name, value in io.to_dict(RUN).items() if name != "lora"}
    assert io.from_dict(RunConfig, without) == RUN  # as runs were written before


def test_options_and_toml() -> None:
    run = io.override(RUN, {"lora.rank": "4"})
    assert run.lora == LoraConfig(rank=4)
    run = io.override(run, {"lora.targets": '["ffn", "decoder.blocks.1.*"]', "lora.alpha": "2"})
    assert run.lora == LoraConfig(4, 2.0, 0.0, ("ffn", "decoder.blocks.1.*"))
    assert io.parse_toml(io.dump_toml(run)) == run
    assert io.override(run, {"lora": "none"}) == RUN
    assert io.parse_toml('[lora]\ntargets = ["all"]', RUN).lora == LoraConfig(targets=("all",))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lora.rank": "0"}, "lora.rank = 0: must be at least 1"),
        ({"lora.alpha": "0"}, "lora.alpha = 0.0: must be above 0"),
        ({"lora.dropout": "1"}, "lora.dropout = 1.0: must be in [0, 1)"),
        ({"lora.targets": "[]"}, "lora.targets = []: must be a list of attention, ffn"),
        ({"lora.targets": '["experts", " "]'}, "lora.targets = ['experts', ' ']"),
        ({"lora.ranks": "3"}, "lora.ranks: no such option; did you mean 'rank'?"),
        ({"lora": "4"}, "lora = '4': must be a table; options: rank, alpha, dropout, targets"),
    ],
)
def test_refusals_are_one_line(options: dict[str, str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        io.override(RUN, options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "field"),
    [({"lora.rank": "4"}, "lora"), ({"train.trained": "router"}, "train.trained")],
)
def test_plans_are_of_runs_that_train_every_weight(options: dict[str, str], field: str) -> None:
    run = io.override(RUN, options)
    with pytest.raises(ConfigError, match=rf"^{field} = .*: must be left out here: plans"):
        Question(run, 1, device_of("cpu"), Assumptions())
