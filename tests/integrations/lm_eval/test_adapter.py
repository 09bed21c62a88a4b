"""The harness on a Turnout model: every example as ``turnout eval`` has it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.evaluate.subjects import LENGTH, config_of, model_of, write_task
from turnout.checkpoint import folders
from turnout.config import io
from turnout.config.errors import ConfigError, UserError
from turnout.config.objective import CausalConfig, ObjectiveConfig, SpanConfig, TextToTextConfig
from turnout.config.train import RunConfig
from turnout.convert.native import write_native
from turnout.convert.source import Held
from turnout.evaluate.library import find
from turnout.evaluate.run import Options, Result, evaluate, prepare
from turnout.evaluate.subject import open_subject

pytestmark = pytest.mark.filterwarnings("ignore")  # the harness's own, and its libraries'

CHOICES = 'kind = "choices"\ninputs = "Q: {inputs}"\nchoices = "choices"\nanswer = "answer"\n'
WORDS = """
kind = "generate"
inputs = "Q: {inputs}"
targets = "{targets}"
max_tokens = 5
stop = ["\\u0000"]
"""
RUNS: dict[str, tuple[str, ObjectiveConfig]] = {
    "text": ("olmoe", CausalConfig()),
    "examples": ("modern", TextToTextConfig()),
    "two stacks": ("switch", TextToTextConfig()),
    "spans": ("switch", SpanConfig()),
}


def facts(count: int) -> list[dict[str, Any]]:
    words = ["red", "green", "blue and white", "x"]
    return [
        {
            "inputs": f"colour {number * 37 % 11}{'!' * (number % 4)}",
            "choices": [words[(number + i) % 4] for i in range(3)],
            "targets": words[number % 4],
            "answer": number % 3,
        }
        for number in range(count)
    ]


def saved_run(folder: Path, case: str, objective: ObjectiveConfig) -> Path:
    """The run of a model with random weights, trained on nothing, as a run of that objective."""
    held = Held(model_of(config_of(case, LENGTH)))
    run = RunConfig(held.config, objective)
    meta = {"step": 0, "tokens": 0, "config": io.to_dict(run) | {"preset": "none"}}
    meta["config"]["train"]["dtype"] = "float32"
    planned = [[held.planned(name) for name in held.names]]
    tensors = (held.read(name) for name in held.names)
    write_native(folders.step_folder(folder, 0), meta, planned, tensors)
    return folder


@pytest.fixture(params=RUNS)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return saved_run(tmp_path / "run", *RUNS[request.param])


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    yield


def ours(folder: Path, run: Path) -> Result:
    return evaluate(prepare(find(str(folder)), Options()), open_subject(run))


def theirs(folder: Path, run: Path, task: dict[str, Any]) -> dict[str, Any]:
    """What the harness says of the same file."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    from turnout.integrations.lm_eval import NAME

    common = {
        "task": "local",
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"validation": str(folder / "validation.jsonl")},
            "cache_dir": str(folder / "cache"),
        },
        "validation_split": "validation",
        "test_split": "validation",
        "doc_to_text": "Q: {{inputs}}",
    }
    found = lm_eval.simple_evaluate(
        model=NAME,
        model_args={"path": str(run)},
        tasks=[common | task],
        task_manager=TaskManager(include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,
        verbosity="ERROR",
    )
    assert found is not None
    return found


def test_choices_agree_on_every_example(run: Path, tmp_path: Path) -> None:
    folder = write_task(tmp_path / "facts", CHOICES, validation=facts(12))
    task = {
        "output_type": "multiple_choice",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}],
    }
    found = theirs(folder, run, task)
    mine = ours(folder, run)
    samples = sorted(found["samples"]["local"], key=lambda sample: sample["doc_id"])
    assert len(samples) == len(mine.scored) == 12
    for sample, each in zip(samples, mine.scored, strict=True):
        logs = [float(answer[0][0]) for answer in sample["resps"]]
        assert logs == pytest.approx(each.logs, rel=1e-6)
        likeliest = sample["doc"]["choices"][logs.index(max(logs))]
        assert likeliest == each.prediction
        assert sample["acc"] == float(each.prediction == each.question.target)
    accuracy = found["results"]["local"]["acc,none"]
    assert accuracy == pytest.approx(mine.measures[0].value)


def test_words_agree_on_every_example(run: Path, tmp_path: Path) -> None:
    folder = write_task(tmp_path / "facts", WORDS, validation=facts(8))
    task = {
        "output_type": "generate_until",
        "doc_to_target": "{{targets}}",
        "generation_kwargs": {"until": ["\0"], "max_gen_toks": 5, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    }
    found = theirs(folder, run, task)
    mine = ours(folder, run)
    samples = sorted(found["samples"]["local"], key=lambda sample: sample["doc_id"])
    for sample, each in zip(samples, mine.scored, strict=True):
        assert sample["resps"][0][0].strip() == each.prediction
        assert sample["exact_match"] == float(each.prediction == each.question.target)
    assert len(samples) == len(mine.scored) == 8
    assert found["results"]["local"]["exact_match,none"] == pytest.approx(mine.measures[0].value)


def test_text_agrees_on_every_example(tmp_path: Path) -> None:
    """Rolling log-likelihoods of text longer than a row, and their bits per byte."""
    run = saved_run(tmp_path / "run", *RUNS["text"])
    entries = [{"inputs": "a text that goes on and on, " * n} for n in (1, 4, 7)]
    toml = 'kind = "text"\ntargets = "{inputs}"\n'
    folder = write_task(tmp_path / "facts", toml, validation=entries)
    task = {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{inputs}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    }
    found = theirs(folder, run, task)
    mine = ours(folder, run)
    samples = sorted(found["samples"]["local"], key=lambda sample: sample["doc_id"])
    for sample, each in zip(samples, mine.scored, strict=True):
        assert float(sample["resps"][0][0]) == pytest.approx(each.logs[0], rel=1e-6)
    bits = found["results"]["local"]["bits_per_byte,none"]
    assert bits == pytest.approx(mine.measures[0].value)


class Request:
    """What the adapter reads of the harness's requests."""

    def __init__(self, *args: Any) -> None:
        self.args = args


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from turnout.integrations.lm_eval import TurnoutLM

    folder = tmp_path_factory.mktemp("adapter") / "run"
    return TurnoutLM(str(saved_run(folder, *RUNS["text"])), batch_size="auto", device="cuda:0")


def test_greedy_is_what_would_be_written(adapter: Any) -> None:
    assert adapter.loglikelihood([Request("Q:", "zzzz")])[0][1] is False
    # The first byte that is written, if it is a character by itself.
    starts = [f"Q{number}:" for number in range(40)]
    first = [Request(start, {"until": [], "max_gen_toks": 1}) for start in starts]
    pairs = [
        Request(start, text)
        for start, text in zip(starts, adapter.generate_until(first), strict=True)
        if text.isascii() and len(text) == 1  # no special token's name
    ]
    assert pairs
    assert all(greedy for _, greedy in adapter.loglikelihood(pairs))


def test_answers_keep_the_order_of_their_requests(adapter: Any) -> None:
    asked = [
        Request("one", {"until": "a", "max_gen_toks": 3}),
        Request("a longer context", {"until": ["b", ""], "max_gen_toks": 6}),
        Request("one", {"until": ["a"], "max_gen_toks": 3, "temperature": 0.0}),
    ]
    found = adapter.generate_until(asked)
    alone = [adapter.generate_until([request])[0] for request in asked]
    assert found == alone and found[0] == found[2]


def test_what_is_not_offered(adapter: Any, tmp_path: Path) -> None:
    from turnout.integrations.lm_eval import TurnoutLM

    for options in ({"do_sample": True}, {"temperature": 0.7}):
        with pytest.raises(UserError, match="turnout: answers greedily: leave out do_sample"):
            adapter.generate_until([Request("Q", options)])
    with pytest.raises(ConfigError, match="max_tokens = 256: must be at most 63"):
        adapter.generate_until([Request("Q", {"until": ["x"]})])
    with pytest.raises(UserError, match="no such run folder"):
        TurnoutLM(str(tmp_path / "none"))


@pytest.mark.slow
def test_the_command_line_of_the_harness_knows_the_model(tmp_path: Path) -> None:
    run = saved_run(tmp_path / "run", *RUNS["text"])
    write_task(tmp_path / "facts", CHOICES, validation=facts(3))
    task = {
        "task": "local",
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"validation": str(tmp_path / "facts" / "validation.jsonl")},
            "cache_dir": str(tmp_path / "cache"),
        },
        "validation_split": "validation",
        "output_type": "multiple_choice",
        "doc_to_text": "Q: {{inputs}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}],
    }
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "local.yaml").write_text(json.dumps(task))
    command = [sys.executable, "-m", "turnout.integrations.lm_eval", "run", "--model", "turnout"]
    command += ["--model_args", f"path={run}", "--tasks", "local"]
    command += ["--include_path", str(tmp_path / "tasks")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "|local|" in done.stdout.replace(" ", "")
