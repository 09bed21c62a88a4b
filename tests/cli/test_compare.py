"""``turnout compare`` through the command line."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from turnout.cli.progress import line
from turnout.compare.runner import Progress

Turnout = Callable[..., Any]


def small(text: Path, steps: int, eval_every: int, save_every: int) -> tuple[str, ...]:
    """Options that make the runs of ``switch_tiny`` small."""
    return (
        *("switch_tiny", "--data", str(text), "--train.batch_rows", "4", "--train.eval_rows", "4"),
        *("--train.steps", str(steps), "--train.eval_every", str(eval_every)),
        *("--train.save_every", str(save_every), "--train.dtype", "float32"),
        *("--train.threads", "1", "--model.d_model", "32", "--model.feed_forward.d_ff", "64"),
        *("--model.length", "128", "--model.attention.head_dim", "8", "--model.num_layers", "2"),
        *("--model.moe.num_experts", "4"),
    )


def test_a_comparison_of_two_runs(turnout: Turnout, text_folder: Path, tmp_path: Path) -> None:
    given = ("compare", *small(text_folder, 3, 1, 3), "--rates", "1e-3")
    first = turnout(*given, "--seeds", "1", "--jobs", "2")
    assert first.code == 0, first.err
    folder = tmp_path / "runs" / "compare-switch_tiny"
    assert "2 runs in runs/compare-switch_tiny; to go on after a stop" in first.out
    assert "| experts-4-lr0.001-seed1 | step 3/3 | done" in first.out
    assert "experts-4 against dense: " in first.out
    runs = "runs/compare-switch_tiny/runs"
    both = f"{runs}/experts-4-lr0.001-seed1 {runs}/dense-lr0.001-seed1"
    assert f"next: turnout report {both}" in first.out
    assert turnout("report", *both.split()).code == 0
    assert json.loads((folder / "comparison.json").read_text())["protocol"]["compare"]["seeds"] == 1
    page = (folder / "comparison.md").read_text()
    assert "Command: `turnout compare switch_tiny --data" in page
    assert "; up to 2 runs at once, which slows their clocks alike." in page
    assert (folder / "comparison.png").is_file()

    second = turnout(*given, "--seeds", "1")
    assert second.code == 0 and "run 2 of 2" not in second.out
    from_file = turnout(
        *("compare", "--config", "runs/compare-switch_tiny/protocol.toml"),
        *("--out", "runs/compare-switch_tiny"),
    )
    assert from_file.code == 0 and "run 2 of 2" not in from_file.out

    refused = turnout(*given, "--seeds", "2")
    assert refused.code == 2 and refused.out == ""
    assert refused.err.count("\n") == 1
    assert "compare.seeds is 1 there, 2 here; name another folder with --out" in refused.err

    evaluated = turnout("eval", str(folder / "runs" / "dense-lr0.001-seed1"))
    assert evaluated.code == 0, evaluated.err


@pytest.mark.slow
def test_kill_9_in_the_second_run_and_go_on(
    turnout: Turnout, text_folder: Path, tmp_path: Path
) -> None:
    """Two rates and two seeds; the whole is killed, and typed again."""
    options = (
        *small(text_folder, 60, 10, 5),
        *("--rates", "1e-3", "1e-2", "--seeds", "2", "--out", "c"),
    )
    command = [sys.executable, "-m", "turnout", "compare", *options]
    runs = tmp_path / "c" / "runs"
    first, second = runs / "dense-lr0.001-seed0", runs / "experts-4-lr0.001-seed0"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (second / "checkpoints" / "step-00000005" / "index.json").exists():
        assert process.poll() is None
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (second / "result.json").exists()
    before = (first / "metrics.jsonl").read_bytes()

    done = turnout("compare", *options)
    assert done.code == 0, done.err
    assert (first / "metrics.jsonl").read_bytes() == before
    assert 5 <= json.loads((second / "result.json").read_text())["first_step"] < 60
    records = [json.loads(text) for text in (second / "metrics.jsonl").read_text().splitlines()]
    steps = [record["step"] for record in records if record["kind"] == "step"]
    assert steps == list(range(1, 61))
    assert len(list(runs.iterdir())) == 8
    table = json.loads((tmp_path / "c" / "comparison.json").read_text())
    assert [pair["seeds"] for pair in table["speed_ups"]] == [[1, 2]]


@pytest.mark.slow
@pytest.mark.usefixtures("usual_interrupt")
def test_ctrl_c_stops_both_of_two_at_once(
    turnout: Turnout, text_folder: Path, tmp_path: Path
) -> None:
    options = (*small(text_folder, 300, 100, 50), "--rates", "1e-3", "--seeds", "1", "--out", "c")
    command = [sys.executable, "-m", "turnout", "compare", *options, "--jobs", "2"]
    runs = [tmp_path / "c" / "runs" / f"{arm}-lr0.001-seed1" for arm in ("dense", "experts-4")]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, process_group=0
    )
    while not all((run / "checkpoints" / "step-00000050" / "index.json").exists() for run in runs):
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130 and said.startswith("interrupted; what is done is kept in c: ")
    assert not any((run / "result.json").exists() for run in runs)
    # Nothing works there any more, so that the same command takes the folder at once.
    done = turnout("compare", *options)
    assert done.code == 0, done.err
    for run in runs:
        assert 50 <= json.loads((run / "result.json").read_text())["first_step"] < 300


def test_a_dry_run_is_a_protocol(turnout: Turnout, tmp_path: Path) -> None:
    result = turnout(
        *("compare", "switch_tiny", "--experts", "2", "4", "8", "16", "32", "--dry-run"),
        *("--baselines", "wider", "deeper", "weight_decay", "--compare.deeper.factor", "3"),
    )
    assert result.code == 0, result.err
    # (2 arms + 4 counts + 4 baselines) * 3 rates, 3 seeds for 2 arms, 1 for 8.
    assert result.out.startswith("# 44 runs of 2,000 steps, ")
    assert "# experts-32: 9,020,544 parameters" in result.out
    table = tomllib.loads(result.out)
    assert table["compare"]["experts"] == [2, 4, 8, 16, 32]
    assert table["compare"]["learning_rates"] == [0.001, 0.002, 0.004]
    assert table["compare"]["deeper"] == {"factor": 3.0}
    assert table["train"]["eval_every"] == 50
    (tmp_path / "protocol.toml").write_text(result.out)
    assert turnout("compare", "--config", "protocol.toml", "--dry-run").out == result.out
    assert not (tmp_path / "runs").exists()


def test_help_does_not_offer_what_is_refused(turnout: Turnout) -> None:
    result = turnout("compare", "--help")
    assert result.code == 0
    assert "--baselines" in result.out and "--dense" not in result.out


def test_a_count_that_is_asked_for_alone_is_the_runs(turnout: Turnout) -> None:
    result = turnout("compare", "--experts", "16", "--dry-run")
    table = tomllib.loads(result.out)
    assert table["model"]["moe"]["num_experts"] == 16
    assert table["compare"]["experts"] == [16]


def test_a_runs_file_is_a_comparisons(turnout: Turnout, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(
        'preset = "switch_tiny"\n[train]\nsteps = 8\neval_every = 2\n[compare]\nseeds = 2\n'
    )
    table = tomllib.loads(turnout("compare", "--config", "run.toml", "--dry-run").out)
    assert (table["train"]["eval_every"], table["compare"]["seeds"]) == (2, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--dense",), "compare takes no --dense: the dense twin is derived"),
        (("t5_small",), "compare: the model of t5_small is dense"),
        (("--jobs", "0"), "--jobs = 0: must be at least 1"),
        (("--seeds", "0"), "compare.seeds = 0: must be in 1 .. 1000"),
        (("--seeds", "x"), "compare.seeds = 'x': must be a whole number"),
        (("--rates", "0"), "compare.learning_rates = 0.0: must be above 0"),
        (("--rates", "1e-3", "fast"), "compare.learning_rates[1] = 'fast': must be a finite"),
        (("--seeds", "1", "--compare.seeds", "2"), "--seeds and --compare.seeds are the same"),
        (("--baselines", "wide"), "--baselines = 'wide': must be of wider, deeper, weight_decay"),
        (("--compare.sedes", "2"), "compare.sedes: no such option; did you mean 'seeds'?"),
        (("--compare.dense_d_ff", "600"), "compare.dense_d_ff = 600: must be such that"),
        (
            ("--experts", "2", "--model.moe.num_experts", "8"),
            "compare.experts = [2]: must be a list with model.moe.num_experts (8) in it",
        ),
        (("--train.eval_every", "1000"), "train.eval_every = 1000: must be at most train.steps"),
        (("--config", "no.toml"), "cannot read 'no.toml'"),
        (("--out", ""), "--out '': must name a folder"),
    ],
)
def test_a_mistake_is_one_line(turnout: Turnout, arguments: tuple[str, ...], message: str) -> None:
    dry = () if arguments[0] == "--out" else ("--dry-run",)
    result = turnout("compare", *arguments, *dry)
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith(f"error: {message}")
    assert result.err.count("\n") == 1


def test_ctrl_c_says_how_to_go_on(turnout: Turnout, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*rest: Any, **more: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("turnout.compare.conduct.conduct", interrupted)
    result = turnout("compare", "--out", "c", "--seeds", "1")
    assert result.code == 130
    assert result.err == (
        "interrupted; what is done is kept in c: turnout compare --out c --seeds 1\n"
    )


def test_a_line_of_progress() -> None:
    now = Progress(3, 12, "dense-lr0.002-seed0", 120, 600, 1.25, 760.4)
    assert line(now) == (
        "run 3 of 12 | dense-lr0.002-seed0 | step 120/600 | loss 1.2500 | 0:12:40 left"
    )
    assert line(Progress(1, 2, "x", 0, 6, None, None)) == "run 1 of 2 | x | step 0/6"


def test_the_commands_of_the_documentation(turnout: Turnout) -> None:
    page = (Path(__file__).parents[2] / "docs" / "compare.md").read_text()
    commands = [text for text in page.splitlines() if text.startswith("turnout compare ")]
    commands = [text for text in commands if "--by-source" not in text]  # reads runs
    assert len(commands) == 6
    for text in commands:
        words = [word for word in shlex.split(text, comments=True)[1:] if word != "--dry-run"]
        result = turnout(*words, "--dry-run")
        assert result.code == 0, result.err
    # The table of the protocol is one that a file may hold.
    block = page.split("```toml\n")[1].split("```")[0]
    Path("file.toml").write_text(f'preset = "switch_tiny"\n{block}')
    result = turnout("compare", "--config", "file.toml", "--dry-run")
    assert result.code == 0, result.err
    assert tomllib.loads(result.out)["compare"] == tomllib.loads(block)["compare"]
    assert "# 12 runs" in turnout("compare", "switch_tiny", "--dry-run").out
