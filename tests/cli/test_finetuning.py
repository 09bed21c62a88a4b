"""``turnout finetune`` and ``turnout distill`` from a run to what they say of it."""

import json
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from turnout.checkpoint import folders
from turnout.cli.main import main
from turnout.train.session import saved_config

Turnout = Callable[..., Any]
Tiny = dict[str, tuple[str, ...]]


@pytest.fixture
def questions(tmp_path: Path) -> str:
    lines = [{"inputs": f"capital of {n}?", "targets": f"city {n % 7}"} for n in range(60)]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def changed(options: tuple[str, ...], name: str, value: str) -> list[str]:
    return [value if before == name else word for before, word in pairwise(("", *options))]


def dense(tiny: Tiny) -> list[str]:
    """The dense twin's options: those of experts would bring them back."""
    options = list(tiny["causal"])
    at = options.index("--model.moe.num_experts")
    return [*options[:at], *options[at + 2 :], "--dense"]


@pytest.fixture(scope="module")
def pair(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A sparse run, ``first``, and its dense twin, ``dense``."""
    folder = tmp_path_factory.mktemp("pair")
    options = {"first": list(tiny["causal"]), "dense": dense(tiny)}
    for name, words in options.items():
        assert main(["train", *words, "--out", str(folder / name)]) == 0
    return {name: str(folder / name) for name in options}


def named(arguments: Iterable[str], names: Mapping[str, str]) -> list[str]:
    return [names.get(word, word) for word in arguments]


SHORT = ("--train.steps", "4", "--train.eval_every", "2", "--train.batch_rows", "4")


@pytest.mark.parametrize("objective", ["causal", "span"])
def test_from_a_run_to_a_report(
    turnout: Turnout, tiny: Tiny, questions: str, objective: str, tmp_path: Path
) -> None:
    assert turnout("train", *tiny[objective], "--out", "first").code == 0
    words = ("experts:top50%", "router")
    arguments = ("finetune", "first", "--data", questions, "--trains", *words, *SHORT)
    done = turnout(*arguments, "--out", "tuned")
    assert done.code == 0, done.err
    assert "start      " in done.out
    assert "tensors of first" in done.out
    assert "overfitting: " in done.out
    assert "same experts" in done.out
    assert "next: turnout eval tuned/checkpoints/step-" in done.out
    report = json.loads((tmp_path / "tuned" / "finetune.json").read_text())
    sparse = 2 if objective == "span" else 1
    assert len(report["drift"]) == sparse
    config = saved_config(Path("tuned"))
    assert config.objective.kind == "text_to_text"
    assert config.model.dropout == 0.1
    assert config.model.moe.expert_dropout == 0.4
    assert config.optimizer.learning_rate == pytest.approx(0.2 * 2e-3)
    assert all("experts.*[" in word for word in config.train.trained[:-1])

    again = turnout("finetune", "tuned", "--report")
    assert again.code == 0, again.err
    assert "overfitting: " in again.out


def test_balance_off_and_plain_text(
    turnout: Turnout, pair: dict[str, str], text_folder: Path
) -> None:
    plain = ("finetune", pair["first"], "--data", str(text_folder), "--balance", "off", "--dry-run")
    shown = turnout(*plain, "--recipe", "plain")
    assert shown.code == 0, shown.err
    for line in ("balance = 0.0", "router_z = 0.0", "expert_dropout = 0.0", 'kind = "causal"'):
        assert line in shown.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nowhere", "--data", "x.jsonl"), "no such run folder"),
        (("first",), "--data: required"),
        (("first", "--data", "x.jsonl", "--recipe", "spares"), "--recipe spares: did you mean"),
        (("first", "--data", "QUESTIONS", "--trains", "expert"), "train.trained = 'expert'"),
        (("first", "--report"), "began with fresh weights"),
    ],
)
def test_every_mistake_is_one_line(
    turnout: Turnout,
    pair: dict[str, str],
    questions: str,
    arguments: tuple[str, ...],
    says: str,
    tmp_path: Path,
) -> None:
    given = named(arguments, {**pair, "QUESTIONS": questions})
    failed = (
        turnout("finetune", *given, "--out", "out")
        if "--report" not in given
        else turnout("finetune", *given)
    )
    assert failed.code == 2
    assert failed.err.startswith("error: ")
    assert failed.err.count("\n") == 1
    assert says in failed.err
    assert not folders.saved_steps(tmp_path / "out")


def test_a_student_a_control_and_what_they_keep(
    turnout: Turnout, tiny: Tiny, tmp_path: Path
) -> None:
    # The teacher is trained, the dense model hardly: there is a gain to keep.
    long = changed(tiny["causal"], "--train.steps", "30")
    assert turnout("train", *long, "--out", "teacher").code == 0
    assert turnout("train", *dense(tiny), "--out", "dense").code == 0
    done = turnout("distill", "teacher", "--out", "student", "--train.steps", "30")
    assert done.code == 0, done.err
    assert "teacher    teacher/checkpoints/step-00000030: 0.25 of the language loss" in done.out
    assert "fresh: " in done.out
    config = saved_config(Path("student"))
    assert config.model.moe is None
    assert config.start.weights == "shared"
    said = turnout("distill", "teacher", "--gain", "student", "--dense", "dense")
    assert said.code == 0, said.err
    assert "student student" in said.out
    assert "100%" in said.out
    refused = turnout("distill", "dense", "--gain", "student", "--dense", "teacher")
    assert refused.code == 2
    assert "is not better than the dense model" in refused.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("first", "--gain", "first"), "--dense: required with --gain"),
        (("first", "--dense", "first"), "--dense: goes with --gain"),
        (("dense",), "--student: required"),
        (("first", "--student", "switch_tny"), "switch_tny"),
        (("first", "--soft", "2"), "distillation.soft = 2.0"),
    ],
)
def test_mistakes_of_distill(
    turnout: Turnout, pair: dict[str, str], arguments: tuple[str, ...], says: str
) -> None:
    failed = turnout("distill", *named(arguments, pair))
    assert failed.code == 2
    assert says in failed.err
    assert failed.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("finetune", "first", "--report", "--trains", "router"), "--report: takes no --trains"),
        (("finetune", "first", "--report", "--train.steps", "5"), "takes no --train.steps"),
        (("distill", "first", "--gain", "first", "--soft", "0.9"), "--gain: takes no --soft"),
        (("compare", "--by-source", "first", "first", "--jobs", "4"), "takes no --jobs"),
        (("distill", "first", "--student", "dense", "--start", "fresh"), "has weights of its own"),
        (("train", "--resume", "first", "--train.trained", "experts:top5%"), "when a run begins"),
    ],
)
def test_options_without_effect_are_refused(
    turnout: Turnout, pair: dict[str, str], arguments: tuple[str, ...], says: str
) -> None:
    failed = turnout(*named(arguments, pair))
    assert failed.code == 2
    assert says in failed.err
    assert failed.err.count("\n") == 1


def test_a_sparse_student_of_a_dense_teacher_is_balanced(
    turnout: Turnout, pair: dict[str, str]
) -> None:
    shown = turnout("distill", pair["dense"], "--student", pair["first"], "--dry-run")
    assert shown.code == 0, shown.err
    assert "balance = 0.01" in shown.out
    assert f'teacher = "{pair["dense"]}"' in shown.out


def test_models_of_other_tokens_are_not_compared(
    turnout: Turnout, tiny: Tiny, pair: dict[str, str]
) -> None:
    other = ("--data.tokenizer", "trained", "--data.tokenizer.vocab_size", "500")
    learnt = turnout(
        "train", *tiny["causal"], *other, "--model.vocab_size", "512", "--out", "second"
    )
    assert learnt.code == 0, learnt.err
    failed = turnout("distill", "second", "--gain", pair["first"], "--dense", pair["first"])
    assert failed.code == 2
    assert "another vocabulary" in failed.err


def test_patience_is_said(turnout: Turnout, tiny: Tiny) -> None:
    done = turnout("train", *tiny["causal"], "--out", "first", "--train.patience", "2")
    assert done.code == 0
    assert "patience 2 evaluations" in done.out
    assert "patience OFF" in turnout("train", *tiny["causal"], "--out", "second").out
