"""Tasks asked of small models: choices, words, text, shots, domains; and what goes wrong."""

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.evaluate.subjects import BYTES, subject_of, write_task
from turnout.config.errors import ConfigError, UserError
from turnout.config.objective import CausalConfig, SpanConfig, TextToTextConfig
from turnout.convert.api import save
from turnout.evaluate.form import BETWEEN_SHOTS, Row
from turnout.evaluate.library import find
from turnout.evaluate.run import Options, evaluate, examples, prepare
from turnout.evaluate.subject import Subject, open_subject

CHOICES = """
kind = "choices"
inputs = "{inputs}"
choices = "choices"
answer = "answer"
domain = "relation"
"""
WORDS = 'kind = "generate"\ninputs = "{inputs}"\ntargets = "{targets}"\nmax_tokens = 6\n'
TEXT = 'kind = "text"\ntargets = "{inputs}"\ndomain = "relation"\n'


def facts(count: int, offset: int = 0) -> list[dict[str, Any]]:
    return [
        {
            "inputs": f"what is number {number}?",
            "targets": "ab" if number % 2 else "c",
            "choices": ["ab", "c", "defg"],
            "answer": 1 - number % 2,
            "relation": "odd" if number % 3 else "third",
        }
        for number in range(offset, offset + count)
    ]


def folder(tmp_path: Path, text: str, count: int = 7) -> str:
    return str(write_task(tmp_path / "facts", text, train=facts(20, 100), validation=facts(count)))


def by_name(found: Any) -> dict[str, Any]:
    return {each.name: each for each in found}


@pytest.mark.parametrize(
    "subject",
    [
        subject_of("olmoe", CausalConfig()),
        subject_of("switch", TextToTextConfig()),
        subject_of("t5", SpanConfig()),
    ],
    ids=["text", "examples", "spans"],
)
def test_choices_are_scored_one_by_one(tmp_path: Path, subject: Subject) -> None:
    """Every measure again from the log-likelihoods, which are those of each row alone."""
    result = evaluate(prepare(find(folder(tmp_path, CHOICES)), Options()), subject)
    assert len(result.scored) == 7
    right = right_by_byte = 0
    nats, brier = [], []
    for each, fact in zip(result.scored, facts(7), strict=True):
        rows = [subject.form.row(fact["inputs"], " " + choice) for choice in fact["choices"]]
        logs = [subject.likelihoods([row])[0].total for row in rows]
        assert each.logs == pytest.approx(logs, rel=1e-5)
        assert each.prediction == fact["choices"][logs.index(max(logs))]
        right += logs.index(max(logs)) == fact["answer"]
        sizes = [2, 1, 4]
        shares = [log / size for log, size in zip(logs, sizes, strict=True)]
        right_by_byte += shares.index(max(shares)) == fact["answer"]
        nats.append((-logs[fact["answer"]], sizes[fact["answer"]]))
        whole = sum(map(math.exp, logs))
        spread = [math.exp(log) / whole for log in logs]
        wanted = [float(place == fact["answer"]) for place in range(3)]
        brier.append(sum((p - w) ** 2 for p, w in zip(spread, wanted, strict=True)))
    found = by_name(result.measures)
    assert found["accuracy"].value == pytest.approx(right / 7)
    assert found["accuracy"].chance == pytest.approx(1 / 3)
    assert found["accuracy_per_byte"].value == pytest.approx(right_by_byte / 7)
    bits = sum(n for n, _ in nats) / math.log(2) / sum(size for _, size in nats)
    assert found["bits_per_answer_byte"].value == pytest.approx(bits, rel=1e-5)
    assert found["brier"].value == pytest.approx(sum(brier) / 7, rel=1e-5)
    assert result.measures[0].name == "accuracy"


def test_domains_are_parts_of_the_whole(tmp_path: Path) -> None:
    subject = subject_of("modern", CausalConfig())
    result = evaluate(prepare(find(folder(tmp_path, CHOICES)), Options()), subject)
    assert {name: found[0].count for name, found in result.domains.items()} == {
        "odd": 4,
        "third": 3,
    }
    parts = [(found[0].value, found[0].count) for found in result.domains.values()]
    whole = sum(value * count for value, count in parts) / 7
    assert result.measures[0].value == pytest.approx(whole)


def test_text_by_hand(tmp_path: Path) -> None:
    """Text longer than a row, cut into windows; bits over bytes, nats over tokens."""
    subject = subject_of("modern", CausalConfig(), length=8)
    result = evaluate(prepare(find(folder(tmp_path, TEXT)), Options()), subject)
    nats = []
    for each in facts(7):
        rows = subject.form.windows("", each["inputs"])
        assert len(rows) == 3  # 17 bytes, 8 at a time
        nats.append(-sum(found.total for found in subject.likelihoods(rows)))
    found = by_name(result.measures)
    assert found["bits_per_byte"].value == pytest.approx(sum(nats) / math.log(2) / (17 * 7))
    assert found["perplexity"].value == pytest.approx(math.exp(sum(nats) / (17 * 7)))
    assert result.domains.keys() == {"odd", "third"}


@torch.no_grad()
def taught(text: str) -> Subject:
    """A model that writes ``text`` and ends, whatever it read: logits by position, no attention."""
    subject = subject_of("sines", TextToTextConfig())
    model = subject.model
    written = [*BYTES.encode(text), BYTES.eos]
    original = type(model).output_head

    class Told:
        def __init__(self) -> None:
            self.seen = 0

        def logits(self, hidden: torch.Tensor) -> torch.Tensor:
            made = torch.zeros(*hidden.shape[:-1], BYTES.vocab_size)
            made[..., written[min(self.seen, len(written) - 1)]] = 5.0
            self.seen += 1
            return made

    told = Told()
    assert original is not None
    model.output_head = lambda: told  # type: ignore[method-assign, assignment, return-value]
    return subject


def test_what_is_written_is_scored(tmp_path: Path) -> None:
    """Always ``ab``: right where the number is odd, which is 3 of 7."""
    text = WORDS + 'metrics = ["exact_match", "f1", "rouge_l", "chrf"]'
    result = evaluate(prepare(find(folder(tmp_path, text)), Options()), taught("ab"))
    assert {each.prediction for each in result.scored} == {"ab"}
    found = by_name(result.measures)
    assert found["exact_match"].value == pytest.approx(3 / 7)
    assert found["f1"].value == pytest.approx(3 / 7)
    assert 0 < found["chrf"].value < 100
    assert found["exact_match"].binary and not found["f1"].binary


def test_stops_end_an_answer(tmp_path: Path) -> None:
    given = evaluate(
        prepare(find(folder(tmp_path, WORDS + 'stop = ["b"]')), Options()), taught("abc")
    )
    assert {each.prediction for each in given.scored} == {"a"}
    free = evaluate(prepare(find(folder(tmp_path, WORDS)), Options()), taught("a\nb"))
    assert {each.prediction for each in free.scored} == {"a\nb"}
    # A model of text ends at the end of a line.
    going_on = taught("a\nb")
    going_on = replace(going_on, form=replace(going_on.form, joined=True))
    line = evaluate(prepare(find(folder(tmp_path, WORDS)), Options()), going_on)
    assert {each.prediction for each in line.scored} == {"a"}


def test_a_blank_is_filled_behind_its_sentinel() -> None:
    subject = subject_of("t5", SpanConfig())
    blank = BYTES.sentinel(0)
    assert subject.form.stops == (BYTES.eos, BYTES.sentinel(1))
    from turnout.generate.text import StopStrings

    stops = StopStrings(BYTES, ())
    assert subject._text([blank, *BYTES.encode("cat")], stops) == "cat"
    assert subject._text(BYTES.encode("cat"), stops) == "cat"


def test_shots_stand_before_the_question(tmp_path: Path) -> None:
    found = find(folder(tmp_path, CHOICES))
    (question, context), *_ = prepare(found, Options(shots=2)).given
    first, second, last = context.split(BETWEEN_SHOTS)
    assert last == question.inputs == "what is number 0?"
    pool = {f"{fact['inputs']} {fact['targets']}" for fact in facts(20, 100)}
    assert {first, second} <= pool and first != second
    again = prepare(found, Options(shots=2)).given
    assert again[0][1] == context
    other = prepare(found, Options(shots=2, seed=1)).given
    assert other[0][1] != context
    # The same shots before every question.
    assert again[1][1].startswith(first + BETWEEN_SHOTS + second)


@pytest.mark.parametrize("seed", range(5))
def test_shots_never_hold_the_question(tmp_path: Path, seed: int) -> None:
    """One file, so that shots come from what is scored; and a question that stands there twice."""
    twice = [*facts(6), facts(1)[0] | {"targets": "ab", "answer": 0}]
    write_task(tmp_path / "facts", CHOICES + 'source = "all.jsonl"', all=twice)
    prepared = prepare(find(str(tmp_path / "facts")), Options(shots=5, seed=seed))
    scored = {question.inputs for question, _ in prepared.given}
    assert scored
    for question, context in prepared.given:
        *shots, last = context.split(BETWEEN_SHOTS)
        assert last == question.inputs
        assert len(shots) == 5
        assert not any(shot.startswith(question.inputs) for shot in shots)
        assert not any(shot.startswith(tuple(scored)) for shot in shots)


def test_what_is_shown_says_nothing_of_what_is_scored(tmp_path: Path) -> None:
    """By one stream the sample of a file would be the shots of another of the same length."""
    same = facts(20)
    path = write_task(tmp_path / "facts", CHOICES, train=facts(20, 100), validation=same)
    given = prepare(find(str(path)), Options(shots=3, limit=3)).given
    scored = {int(question.inputs[15:-1]) for question, _ in given}
    shown = {int(shot[15:18]) - 100 for shot in given[0][1].split(BETWEEN_SHOTS)[:-1]}
    assert len(shown) == 3 and shown != scored
    with pytest.raises(UserError, match="--shots 20: task 'facts' has 20 examples, from which the"):
        write_task(path, CHOICES + 'source = "train.jsonl"')
        prepare(find(str(path)), Options(shots=20))


def test_a_missing_library_is_told_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(UserError, match="'chrf': needs the library sacrebleu"):
        prepare(find(folder(tmp_path, WORDS + 'metrics = ["chrf"]')), Options())


def test_too_many_shots(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"--shots 21: task 'facts' has 20 to show beside .* line 1"
    ):
        prepare(find(folder(tmp_path, CHOICES)), Options(shots=21))
    with pytest.raises(ConfigError, match="--shots = 1: must be 0 for a task of kind 'text'"):
        prepare(find(folder(tmp_path, TEXT)), Options(shots=1))
    with pytest.raises(ConfigError, match="--shots = -1: must be at least 0"):
        Options(shots=-1)
    with pytest.raises(ConfigError, match="--seed = -1: must be at least 0"):
        Options(seed=-1)
    with pytest.raises(ConfigError, match="--limit = 0: must be at least 1"):
        Options(limit=0)


def test_what_was_cut_is_counted(tmp_path: Path) -> None:
    short = subject_of("modern", CausalConfig(), length=19)
    # 17 bytes of a question and a start are 18; " ab" takes 2 more, " c" 1 and " defg" 4.
    result = evaluate(prepare(find(folder(tmp_path, CHOICES)), Options()), short)
    assert result.cut == 7
    long = subject_of("modern", CausalConfig(), length=22)
    assert evaluate(prepare(find(folder(tmp_path, CHOICES)), Options()), long).cut == 0


def test_an_answer_that_does_not_fit_is_named(tmp_path: Path) -> None:
    tiny = subject_of("modern", CausalConfig(), length=4)
    with pytest.raises(UserError, match=r"validation\.jsonl line 1: the answer has 5 tokens, more"):
        evaluate(prepare(find(folder(tmp_path, CHOICES)), Options()), tiny)
    with pytest.raises(ConfigError, match="max_tokens = 6: must be at most 3"):
        evaluate(prepare(find(folder(tmp_path, WORDS)), Options()), tiny)


def test_a_log_likelihood_that_is_none_is_named(tmp_path: Path) -> None:
    subject = subject_of("modern", CausalConfig())
    assert subject.model.head is not None
    with torch.no_grad():
        subject.model.head.weight.fill_(3e38)  # finite, and its products are not
    for text in (CHOICES, TEXT):
        with pytest.raises(UserError, match=r"validation\.jsonl line 1: the model's log-likelih"):
            evaluate(prepare(find(folder(tmp_path, text)), Options()), subject)


def test_a_model_that_holds_nan_is_refused(tmp_path: Path) -> None:
    subject = subject_of("switch", SpanConfig())
    with torch.no_grad():
        next(subject.model.parameters())[3, 1] = math.nan
    save(subject.model, tmp_path / "run")
    with pytest.raises(UserError, match="holds values that are not finite") as raised:
        open_subject(tmp_path / "run")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("case", ["olmoe", "switch"])
def test_a_run_is_asked_in_its_own_form(case: str, tmp_path: Path) -> None:
    made = subject_of(case, SpanConfig() if case == "switch" else CausalConfig())
    save(made.model, tmp_path / "run")
    opened = open_subject(tmp_path / "run")
    assert opened.form == made.form
    row = made.form.row("context", " answer")
    expected = made.likelihoods([row])[0].total
    assert opened.likelihoods([row])[0].total == pytest.approx(expected, rel=0.02)  # its dtype


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    save(subject_of("switch", SpanConfig()).model, tmp_path / "hf", format="huggingface")
    with pytest.raises(UserError, match=r"has no tokenizer\.json or spiece\.model to read tasks"):
        open_subject(tmp_path / "hf")


def test_forms_that_cannot_be(tmp_path: Path) -> None:
    save(subject_of("modern", CausalConfig()).model, tmp_path / "run")
    with pytest.raises(ConfigError, match="--form = 'words': must be one of auto, causal"):
        open_subject(tmp_path / "run", "words")
    with pytest.raises(ConfigError, match="form = 'span': must be causal"):
        open_subject(tmp_path / "run", "span")
    asked = open_subject(tmp_path / "run", "text_to_text")
    assert asked.form.row("a", " b") == Row((0, *BYTES.encode("a"), 1), (*BYTES.encode("b"), 1))


def test_examples_as_plain_data(tmp_path: Path) -> None:
    subject = subject_of("modern", CausalConfig())
    result = evaluate(prepare(find(folder(tmp_path, CHOICES)), Options()), subject)
    first = examples(result)[0]
    assert first | {"log_likelihoods": [], "prediction": ""} == {
        "task": "facts",
        "place": f"{tmp_path / 'facts' / 'validation.jsonl'} line 1",
        "inputs": "what is number 0?",
        "target": "c",
        "choices": ["ab", "c", "defg"],
        "domain": "third",
        "cut": False,
        "log_likelihoods": [],
        "prediction": "",
    }
    written = examples(evaluate(prepare(find(folder(tmp_path, WORDS)), Options()), taught("ab")))
    assert written[0]["prediction"] == "ab" and written[0]["references"] == ["c"]
    assert "log_likelihoods" not in written[0]
