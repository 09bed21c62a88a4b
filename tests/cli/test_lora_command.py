"""A run of adapters from the command line: train, generate, evaluate, and three ways out."""

from pathlib import Path

import pytest
from tests.cli.conftest import Turnout

from turnout.integrations.peft import CONFIG, WEIGHTS

SMALL = (
    *("--model.d_model", "32", "--model.feed_forward.d_ff", "32", "--train.batch_rows", "4"),
    *("--train.eval_rows", "4", "--train.micro_batches", "1", "--train.steps", "2"),
    *("--train.eval_every", "2", "--train.threads", "1", "--train.dtype", "float32"),
)


@pytest.fixture
def run(turnout: Turnout, text_folder: Path) -> list[str]:
    """The arguments of a small run."""
    return ["train", "switch_tiny", "--objective", "span", "--data", str(text_folder), *SMALL]


def test_a_run_of_adapters(turnout: Turnout, run: list[str], tmp_path: Path) -> None:
    trained = turnout(*run, "--out", "run", "--lora.rank", "4", "--lora.alpha", "4")
    assert trained.code == 0, trained.err
    assert "adapters   rank 4 on " in trained.out
    assert ".feed_forward.moe.experts.w_in [" in trained.out
    for words in ("generate run --prompt ___", "eval run", "probe run"):
        done = turnout(*words.split())
        assert done.code == 0, done.err
    assert turnout("train", "--resume", "run", "--train.steps", "3").code == 0

    for word, said in {
        "merged": "switch_transformers, ",
        "base": "switch_transformers, ",
        "adapter": "adapters of ",
    }.items():
        done = turnout("convert", "run", f"as-{word}", "--lora", word)
        assert done.code == 0, done.err
        assert said in done.out
    assert {path.name for path in (tmp_path / "as-adapter").iterdir()} == {WEIGHTS, CONFIG}
    one, other = (tmp_path / f"as-{word}" / "model.safetensors" for word in ("merged", "base"))
    assert one.stat().st_size == other.stat().st_size
    assert one.read_bytes() != other.read_bytes()
    checked = turnout("convert", "run", "compared", "--verify")
    assert checked.code == 0, checked.err
    assert "same most probable token  100.00%" in checked.out


def test_help_has_the_options(turnout: Turnout) -> None:
    said = turnout("train", "--help").out
    assert "\n  --lora.rank 8\n" in said and "adapters are off until one of theirs" in said
    assert "did you mean --lora.rank?" in turnout("train", "--rank", "3").err


def test_refusals_are_one_line(turnout: Turnout, run: list[str], tmp_path: Path) -> None:
    dense = turnout(*run, "--dense", "--out", "dense", "--lora.rank", "4")
    assert dense.code == 2
    assert "error: lora.targets = 'experts': must be one of attention (" in dense.err
    assert not (tmp_path / "dense").exists()
    assert turnout(*run, "--out", "whole").code == 0
    for word in ("merged", "base", "adapter"):
        done = turnout("convert", "whole", "out", "--lora", word)
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert "trains no adapters" in done.err
    for words in (("--layout", "fused"), ("--shard-size", "1")):
        done = turnout("convert", "whole", "out", "--lora", "adapter", *words)
        assert done.code == 2 and f"error: {words[0]}: goes with a model; adapters" in done.err
    for words in (("--lora", "base", "--verify"), ("--lora", "adapter", "--dtype", "bfloat16")):
        done = turnout("convert", "whole", "out", *words)
        assert (done.code, done.err.count("\n")) == (2, 1)
    assert turnout("convert", "whole", "foreign").code == 0
    done = turnout("convert", "foreign", "out", "--lora", "base")
    assert "error: --lora: goes with a run that trains adapters" in done.err
    assert not (tmp_path / "out").exists()
