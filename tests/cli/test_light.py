"""Commands that must answer at once import no torch."""

import subprocess
import sys
import tomllib
from collections.abc import Callable
from typing import Any

import pytest

Turnout = Callable[..., Any]

PROBE = """
import sys
from turnout.cli.main import main
code = main(sys.argv[1:])
heavy = [name for name in ("torch", "numpy", "rich", "safetensors") if name in sys.modules]
print("heavy:", heavy, file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--help",),
        ("--version",),
        ("train", "--help"),
        ("train", "switch_base_128", "--help"),
        ("train", "--dry-run"),
        ("train", "--nonsense"),
        ("compare", "--help"),
        ("compare", "switch_tiny", "--experts", "2", "8", "--dry-run"),
        ("eval", "--help"),
        ("generate", "--help"),
        ("data",),
        ("data", "fetch"),
        ("data", "fetch", "--help"),
        ("report", "--help"),
        ("doctor", "--help"),
        ("checkpoint",),
        ("checkpoint", "inspect", "--help"),
        ("checkpoint", "inspect", "nowhere"),
        ("bench", "--help"),
        ("bench", "--list"),
        ("bench", "layer", "--tokens", "0"),
        ("plan", "--help"),
        ("plan", "switch_tiny", "--devices", "4", "--json"),
    ],
)
def test_no_torch_is_imported(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments], capture_output=True, text=True, check=False
    )
    assert "heavy: []" in done.stderr
    assert "Traceback" not in done.stderr


def test_import_turnout_costs_no_torch_and_its_names_resolve() -> None:
    code = (
        "import sys, turnout; assert 'torch' not in sys.modules; "
        "assert all(getattr(turnout, name) is not None for name in turnout.__all__); "
        "assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_is_an_attribute_error() -> None:
    import turnout

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = turnout.nothing
    assert "MoELayer" in dir(turnout)


def test_help_lists_presets_and_the_options_of_the_one_given(turnout: Turnout) -> None:
    result = turnout("train", "switch_tiny", "--objective", "span", "--help")
    assert result.code == 0
    for text in ("switch_demo", "--resume", "--model.encoder-length 512", "--train.steps"):
        assert text in result.out


def test_dry_run_prints_the_resolved_configuration(turnout: Turnout) -> None:
    result = turnout(
        *("train", "switch_tiny", "--router", "top_k", "--model.moe.router.k", "4"),
        *("--model.moe.num-experts", "16", "--dry-run"),
    )
    assert result.code == 0
    table = tomllib.loads(result.out)
    assert table["model"]["moe"]["router"]["kind"] == "top_k"
    assert table["model"]["moe"]["router"]["k"] == 4
    assert table["model"]["moe"]["num_experts"] == 16
    assert "parameters" in result.out.splitlines()[0]
    assert "FLOPs" in result.out.splitlines()[1]


def test_a_dry_run_is_a_configuration_file(turnout: Turnout, tmp_path: Any) -> None:
    first = turnout("train", "switch_tiny", "--objective", "span", "--dense", "--dry-run").out
    (tmp_path / "run.toml").write_text(first)
    assert turnout("train", "--config", "run.toml", "--dry-run").out == first
    changed = turnout("train", "--config", "run.toml", "--train.steps", "7", "--dry-run").out
    assert tomllib.loads(changed)["train"]["steps"] == 7
