"""The command line called in this process, on a small folder of text."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from turnout.cli.main import main


@dataclass(frozen=True)
class Result:
    """Exit code and what was printed."""

    code: int
    out: str
    err: str


Turnout = Callable[..., Result]


@pytest.fixture
def turnout(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Turnout:
    """Run ``turnout ARGUMENTS`` in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Result:
        capsys.readouterr()
        code = main(arguments)
        printed = capsys.readouterr()
        return Result(code, printed.out, printed.err)

    return run


@pytest.fixture(scope="session")
def tiny(text_folder: Path) -> dict[str, tuple[str, ...]]:
    """Options that make ``switch_tiny`` train in a second, by objective."""
    common = (
        "switch_tiny",
        *("--data", str(text_folder), "--train.batch_rows", "4", "--train.eval_rows", "4"),
        *("--train.steps", "3", "--train.eval_every", "2", "--train.save_every", "2"),
        *("--train.dtype", "float32", "--train.threads", "1", "--model.d_model", "32"),
        *("--model.feed_forward.d_ff", "64", "--model.attention.head_dim", "8"),
        *("--model.moe.num_experts", "4"),
    )
    return {
        "causal": (*common, "--model.length", "128", "--model.num_layers", "2"),
        "span": (*common, "--objective", "span", "--model.encoder_length", "128"),
    }
