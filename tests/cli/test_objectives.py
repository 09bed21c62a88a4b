"""Whole runs on prefixes, on examples and on a mixture, through the command line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Turnout = Callable[..., Any]
Tiny = dict[str, tuple[str, ...]]


@pytest.fixture
def sums(tmp_path: Path) -> str:
    lines = [{"inputs": f"{a}+{b}=", "targets": str(a + b)} for a in range(12) for b in range(12)]
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return "sums.jsonl"


@pytest.mark.parametrize("form", ["causal", "span"])
def test_a_prefix_run(turnout: Turnout, tiny: Tiny, form: str) -> None:
    trained = turnout("train", *tiny[form], "--objective.kind", "prefix", "--out", "run")
    assert trained.code == 0, trained.err
    assert "run        switch_tiny (prefix)" in trained.out
    assert "bits/byte" in trained.out and "hidden" not in trained.out
    assert "order-5 n-gram" in trained.out
    assert "three prompts, completed:" in trained.out
    generated = turnout("generate", "run", "--prompt", "def f", "--max-new-tokens", "8")
    assert generated.code == 0, generated.err
    assert generated.out.startswith("def f")


@pytest.mark.parametrize("form", ["causal", "span"])
def test_a_run_on_examples(turnout: Turnout, tiny: Tiny, sums: str, form: str) -> None:
    options = ("--objective.kind", "text_to_text", "--data", sums, "--out", "run")
    trained = turnout("train", *tiny[form], *options)
    assert trained.code == 0, trained.err
    assert "no samples: the questions are yours to ask" in trained.out
    assert "next: turnout generate run --prompt" in trained.out
    generated = turnout("generate", "run", "--prompt", "1+1=", "--max-new-tokens", "4")
    assert generated.code == 0, generated.err
    assert not generated.out.startswith("1+1=")
    wrong = turnout("train", *tiny[form], "--objective.kind", "text_to_text", "--out", "other")
    assert wrong.code == 2
    assert "text_to_text reads .jsonl files of examples, and none is given" in wrong.err


@pytest.mark.parametrize("form", ["causal", "span"])
def test_examples_in_a_vocabulary_of_their_own(
    turnout: Turnout, tiny: Tiny, sums: str, form: str
) -> None:
    lines = [{"inputs": f"add {i}", "targets": f"the sum is {i + i}"} for i in range(200)]
    Path(sums).write_text("\n".join(map(json.dumps, lines)))
    learnt = ("--data.tokenizer", "trained", "--data.tokenizer.vocab-size", "380")
    options = ("--objective.kind", "text_to_text", "--data", sums, "--out", "run")
    trained = turnout("train", *tiny[form], *learnt, *options)
    assert trained.code == 0, trained.err
    assert "tokens (sentencepiece)" in trained.out
    assert [*Path("run/tokenizer").iterdir()]
    generated = turnout("generate", "run", "--prompt", "add 7", "--max-new-tokens", "4")
    assert generated.code == 0, generated.err
    more = turnout("train", "--resume", "run", "--train.steps", "4")
    assert more.code == 0, more.err


def test_a_mixture_from_training_to_the_next_step(
    turnout: Turnout, tiny: Tiny, sums: str, tmp_path: Path
) -> None:
    at = tiny["causal"].index("--data")
    text = tiny["causal"][at + 1]
    options = tiny["causal"][:at] + tiny["causal"][at + 2 :]
    Path("mixture.toml").write_text(
        "[data.mixture]\nblock = 16\n"
        f'[[data.mixture.sources]]\nname = "code"\npaths = ["{text}"]\nweight = 3\n'
        f'[[data.mixture.sources]]\nname = "sums"\npaths = ["{sums}"]\nweight = 1\n'
        'objective = { kind = "text_to_text", max_examples = 4 }\n'
    )
    trained = turnout("train", *options, "--config", "mixture.toml", "--out", "run")
    assert trained.code == 0, trained.err
    assert "rows: code 75.0%, sums 25.0%" in trained.out
    records = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    last = [record for record in records if record["kind"] == "evaluation"][-1]
    assert list(last["sources"]) == ["code", "sums"]
    named = f"; code {last['sources']['code']:.4f}; sums {last['sources']['sums']:.4f}"
    assert named in turnout("eval", "run").out
    more = turnout("train", "--resume", "run", "--train.steps", "4")
    assert more.code == 0, more.err
    assert "from step 3 to 4" in more.out
    other = turnout("eval", "run", "--data", text)
    assert other.code == 2
    assert "data.paths" in other.err and "set data.mixture to none" in other.err


BY_LABEL = ("--router", "label", "--model.moe.router.labels", "2")


def test_a_router_by_source_needs_a_mixture(turnout: Turnout, tiny: Tiny) -> None:
    refused = turnout("train", *tiny["causal"], *BY_LABEL, "--dry-run")
    assert refused.code == 2
    assert (
        "data.mixture = None: must be given where model.moe.router.kind is 'label'" in refused.err
    )


@pytest.mark.slow
def test_a_router_by_source_from_training_to_text(turnout: Turnout, tiny: Tiny) -> None:
    at = tiny["causal"].index("--data")
    text = tiny["causal"][at + 1]
    options = tiny["causal"][:at] + tiny["causal"][at + 2 :]
    Path("mixture.toml").write_text(
        f'[[data.mixture.sources]]\nname = "code"\npaths = ["{text}"]\n'
        f'[[data.mixture.sources]]\nname = "first"\npaths = ["{text}/00.py", "{text}/01.py"]\n'
    )
    trained = turnout("train", *options, "--config", "mixture.toml", *BY_LABEL, "--out", "run")
    assert trained.code == 0, trained.err
    assert "balance OFF (the router is fixed)" in trained.out
    assert "no samples: moe.router.kind = 'label': reads a label of each row" in trained.out
    more = ("generate", "run", "--prompt", "add 7", "--max-new-tokens", "2")
    generated = turnout(*more, "--label", "1")
    assert generated.code == 0, generated.err
    refused = turnout(*more)
    assert refused.code == 2 and "generate with a label" in refused.err
