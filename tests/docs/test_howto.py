"""The guides in docs/howto are carried out from their first line to their last."""

import shlex
from pathlib import Path

import pytest

from tests.docs.test_documents import ROOT, blocks
from turnout.cli.main import main

GUIDE = ROOT / "docs" / "howto" / "add-a-router.md"
LINES = 50  # of a router of one's own, at most


@pytest.fixture
def workplace(tmp_path: Path, text_folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A folder with the guide's files; options that make the demo a small one."""
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(GUIDE, "python")
    Path("nearest.py").write_text(code)
    (options,) = blocks(GUIDE, "toml")
    Path("nearest.toml").write_text(options)
    small = {
        "model.d_model": 32,
        "model.feed_forward.d_ff": 32,
        "train.batch_rows": 4,
        "train.eval_rows": 4,
        "train.steps": 3,
        "train.threads": 1,
        "train.dtype": "float32",
    }
    dotted = [word for name, value in small.items() for word in (f"--{name}", str(value))]
    return ["--data", str(text_folder), *dotted]


def test_a_router_of_your_own(workplace: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks(GUIDE, "python")
    assert len(code.splitlines()) < LINES
    for line in "\n".join(blocks(GUIDE, "sh")).splitlines():
        words = shlex.split(line)
        if not words:
            continue
        assert words.pop(0) == "turnout"
        if words[0] == "train":
            words += workplace
        assert main(words) == 0, f"{line}: {capsys.readouterr().err}"


def test_a_checkpoint_imports_nothing(
    workplace: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """What an earlier command of the same process imported is known by another name here."""
    Path("other.py").write_text(Path("nearest.py").read_text())
    router = ["--router", "other:NearestRouter", "--model.moe.router.k", "2", "--out", "run"]
    assert main(["train", "switch_demo", *router, *workplace]) == 0
    from turnout.moe.routers import custom

    del custom._CLASSES["other:NearestRouter"]
    capsys.readouterr()
    assert main(["generate", "run", "--prompt", "def "]) == 2
    said = capsys.readouterr().err
    assert "add --trust other:NearestRouter to the command" in said and said.count("\n") == 1
    assert main(["train", "--resume", "run", "--train.steps", "4"]) == 2
    assert "add --trust other:NearestRouter" in capsys.readouterr().err
    trusted = ["--trust", "other:NearestRouter"]
    assert main(["train", "--resume", "run", "--train.steps", "4", *trusted]) == 0
