"""``--parallel auto`` lays a run out as the plan ranks first, and keeps what was decided."""

import pytest

from turnout.cli import train
from turnout.cli.auto import laid_out
from turnout.cli.launch import Launch
from turnout.cli.main import main
from turnout.config import io, presets
from turnout.config.errors import ConfigError, UserError
from turnout.config.train import RunConfig
from turnout.plan.hardware import Assumptions, device_of
from turnout.plan.search import Question, layouts


def mini(**options: str) -> RunConfig:
    given = {name.replace("__", "."): value for name, value in options.items()}
    return io.override(presets.run("switch_mini"), given)


@pytest.mark.parametrize("ranks", [1, 2, 8])
def test_the_first_of_the_plan(ranks: int) -> None:
    config = mini(train__dtype="float32")
    found = laid_out(config, ranks, "cpu", ())
    best = layouts(Question(config, ranks, device_of("cpu"), Assumptions()))[0]
    assert found.parallel == best.config.parallel and found.parallel.ranks == ranks
    assert found.train == best.config.train


def test_what_was_decided_stays() -> None:
    config = mini(parallel__tensor="2", train__micro_batches="4")
    found = laid_out(config, 4, "cpu", ("parallel.tensor", "train.micro_batches"))
    assert found.parallel.tensor == 2 and found.train.micro_batches == 4
    assert found.train.dtype == config.train.dtype == "auto"


def test_what_fits_nowhere_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.batch_rows = 32: must be a multiple of 3"):
        laid_out(mini(), 3, "cpu", ())
    with pytest.raises(UserError, match="no layout of switch_c fits on 1 x h100"):
        laid_out(presets.run("switch_c"), 1, "h100", ())


def test_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["switch_mini", "--parallel", "auto"]
    assert train._run([*asked, "--dry-run"], Launch(0, 2)) == 0
    assert "[parallel]\ndata = 2\nfsdp = 2\n" in capsys.readouterr().out
    assert main(["train", "--resume", "x", "--parallel", "auto"]) == 2
    assert "takes no parallel" in capsys.readouterr().err
