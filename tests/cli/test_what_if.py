"""``turnout probe --record`` and ``turnout simulate --what-if`` as they are typed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Turnout = Callable[..., Any]
Tiny = dict[str, tuple[str, ...]]
TRACE, CONFIG = "trace.safetensors", "trace.toml"


@pytest.mark.parametrize("form", ["causal", "span"])
def test_from_a_run_to_its_answers(turnout: Turnout, tiny: Tiny, form: str, tmp_path: Path) -> None:
    assert turnout("train", *tiny[form], "--out", "run").code == 0
    recorded = turnout("probe", "run", "--record", TRACE, "--rows", "8")
    assert recorded.code == 0
    layers = 1 if form == "causal" else 2
    assert f"{TRACE}: 8 rows, {layers} sparse layers, " in recorded.out
    assert "recording: micro-batch 2 of 2" in recorded.err
    following = recorded.out.splitlines()[-1].removeprefix("next: turnout ")
    assert following == f"simulate --config {CONFIG} --what-if {TRACE}"
    told = turnout(*following.split(), "--rows", "2", "--picture", "answers.png")
    assert told.code == 0
    assert "in 4 micro-batches of 2 rows; capacity factor of training 1.25" in told.out
    for text in ("all layers", "the step, capacity 1.25", "placed", "spare places a rank"):
        assert text in told.out
    assert "next: turnout train --config trace.toml --model.moe.train-capacity-factor" in told.out
    assert (tmp_path / "answers.png").read_bytes().startswith(b"\x89PNG")
    told = turnout(*following.split(), "--rows", "2", "--ranks", "2", "--spare", "2", "--json")
    found = json.loads(told.out)
    assert found["ranks"] == 2
    assert [each["spare"] for each in found["replicas"]] == [0, 2]
    assert 1.25 in found["drops"]["factors"]
    assert len(found["drops"]["layers"]) == layers


def test_a_dense_run_has_nothing_to_record(turnout: Turnout, tiny: Tiny) -> None:
    options = list(tiny["causal"])
    at = options.index("--model.moe.num_experts")
    assert turnout("train", *options[:at], *options[at + 2 :], "--dense", "--out", "run").code == 0
    told = turnout("probe", "run", "--record", TRACE)
    assert told.code == 2
    assert told.err == "error: --record: the model of run has no sparse layer\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--what-if nowhere", "cannot read the record 'nowhere'"),
        ("--what-if nowhere --load zipf:1", "--load: has no meaning with --what-if"),
        ("--what-if nowhere --factors 1,x", "--factors 1,x: 'x' must be a number from above 0"),
        ("--what-if nowhere --factors 0", "--factors 0: '0' must be a number from above 0"),
        ("--what-if nowhere --spare 1.5", "--spare 1.5: '1.5' must be a whole number"),
        ("--what-if nowhere --ranks 2,4", "--ranks: must be one number, not 2"),
        ("--what-if nowhere --picture a/b.png", "--picture a/b.png: its folder does not exist"),
        ("--what-if nowhere --picture a.svg", "--picture a.svg: must end in .png"),
        ("--what-if nowhere --dense", "the model has no sparse layer; name a sparse one"),
        ("--factors 1", "--factors: goes with --what-if TRACE alone"),
        ("--picture a.png", "--picture: goes with --what-if TRACE alone"),
    ],
)
def test_a_mistake_is_one_line(turnout: Turnout, line: str, said: str) -> None:
    told = turnout("simulate", "switch_tiny", *line.split())
    assert told.code == 2
    errors = [text for text in told.err.splitlines() if text.startswith("error: ")]
    assert len(errors) == 1 and said in errors[0]
    assert "Traceback" not in told.err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--rows 4", "--rows: goes with --record alone"),
        ("--record a/b", "--record a/b: its folder does not exist"),
        ("--record a.toml", "--record a.toml: its configuration goes there"),
        ("--record a --rows 0", "--rows = 0: must be at least 1"),
    ],
)
def test_a_mistake_in_recording_is_one_line(
    turnout: Turnout, tiny: Tiny, line: str, said: str
) -> None:
    if "--rows 0" in line:
        assert turnout("train", *tiny["causal"], "--out", "run").code == 0
    told = turnout("probe", "run", *line.split())
    assert told.code == 2
    assert said in told.err
