"""Runs of three steps, through the command line, that pictures can be made of."""

from pathlib import Path

import pytest

from turnout.cli.main import main

_COMMON = (
    *("--train.steps", "3", "--train.eval_every", "2", "--train.batch_rows", "4"),
    *("--train.eval_rows", "4", "--train.dtype", "float32", "--train.threads", "1"),
    *("--model.d_model", "32", "--model.feed_forward.d_ff", "64"),
    *("--model.attention.head_dim", "8"),
)
_FORMS = {
    "causal": ("--model.length", "128", "--model.num_layers", "2", "--model.moe.num_experts", "4"),
    "dense": ("--dense", "--model.length", "128", "--model.num_layers", "2"),
    "span": (
        "--objective",
        "span",
        "--model.encoder_length",
        "128",
        "--model.moe.num_experts",
        "4",
    ),
}


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of a run of each form, over text that is hard on what prints it."""
    text = tmp_path_factory.mktemp("text")
    for number in range(12):
        lines = [f"def f{number}_{i}(x):\n    return '</script>\"' + {i}\n" for i in range(40)]
        lines += ["# \u05e9\u05dc\u05d5\u05dd \u202e \U0001f600 \\ <b>&amp;</b> {{x}}\n"] * 4
        (text / f"{number:02d}.py").write_text("\n".join(lines), encoding="utf-8")
    folders = {}
    for form, options in _FORMS.items():
        out = tmp_path_factory.mktemp("runs") / form
        arguments = ("train", "switch_tiny", "--data", str(text), "--out", str(out), *_COMMON)
        assert main([*arguments, *options]) == 0
        folders[form] = out
    return folders
