"""The wheel, by itself: built, installed into an empty environment, and the demo's first steps."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PIP = ("-m", "pip", "--disable-pip-version-check", "--no-input")
SHORT = (
    *("--train.steps", "4", "--train.batch-rows", "2", "--train.eval-rows", "2"),
    *("--train.eval-every", "2", "--train.threads", "1"),
)


def run(command: Sequence[str | Path], where: Path) -> str:
    """What a command prints; its errors stand in the message of a failure."""
    # Nothing of this checkout may be found: neither its sources nor its installed packages.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = ("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT)
    run([sys.executable, *PIP, *build], folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    package = ROOT / "src" / "turnout"
    files = [path for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    held = zipfile.ZipFile(wheel).namelist()
    inside = {name for name in held if not name.split("/")[0].endswith(".dist-info")}
    assert inside == {path.relative_to(package.parent).as_posix() for path in files}
    assert any(name.endswith("/licenses/LICENSE") for name in held)


@pytest.mark.slow
def test_an_empty_environment_trains_with_the_wheel(wheel: Path, tmp_path: Path) -> None:
    """torch first, by the pinned version: a wheel's own bound would take whatever is newest."""
    run([sys.executable, "-m", "venv", tmp_path / "venv"], tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    pinned = ("--constraint", ROOT / "requirements" / "lock.txt")
    torch = ("--requirement", ROOT / "requirements" / "torch.txt")
    run([python, *PIP, "install", *pinned, *torch, wheel], tmp_path)

    turnout = tmp_path / "venv" / "bin" / "turnout"
    trained = run([turnout, "train", "switch_demo", *SHORT], tmp_path)
    assert "order-5 n-gram" in trained
    # Pictures are an extra, and the end of a run says how to have them.
    assert "no picture was drawn; for one: pip install 'turnout[pictures]'" in trained
    assert "bits/byte" in run([turnout, "eval", "runs/switch_demo"], tmp_path)
    prompt = ("--prompt", "def ", "--max-new-tokens", "4")
    assert run([turnout, "generate", "runs/switch_demo", *prompt], tmp_path).startswith("def ")
    run([python, *PIP, "install", *pinned, f"{wheel}[pictures]"], tmp_path)
    run([turnout, "report", "runs/switch_demo"], tmp_path)
    assert (tmp_path / "runs" / "switch_demo" / "report.html").is_file()
    assert "torch" in run([turnout, "doctor"], tmp_path)
