"""Log-likelihoods: against whole rows read token by token, alone and together."""

import math
from dataclasses import replace

import pytest
import torch

from tests.evaluate.subjects import BYTES, LENGTH, config_of, model_of, subject_of
from tests.generate.test_generate import row as stream_of_row
from tests.models.cases import CASES, batch_of
from turnout.config.moe import DocumentGroup, RowsGroup
from turnout.config.objective import (
    CausalConfig,
    ObjectiveConfig,
    PrefixConfig,
    SpanConfig,
    TextToTextConfig,
)
from turnout.config.routers import LabelRouter
from turnout.evaluate.form import Row, form_of
from turnout.evaluate.likelihood import BATCH_ROWS, BATCH_TOKENS, batches, likelihoods
from turnout.evaluate.subject import Subject

PAIRS = [("what is it", " a cat"), ("", " x"), ("two", " long answers, the second"), ("b", " y")]
ENCODERS = [name for name, config in CASES.items() if config.kind == "encoder_decoder"]


def objectives(case: str) -> list[ObjectiveConfig]:
    if case in ENCODERS:
        return [TextToTextConfig(), SpanConfig(), PrefixConfig()]
    return [CausalConfig(), TextToTextConfig(), TextToTextConfig(visible_inputs=True)]


@torch.no_grad()
def slowly(subject: Subject, row: Row) -> tuple[float, bool]:
    """Each token from a pass of its own over everything before it; no cache, no batch."""
    total, greedy = 0.0, True
    for number, token in enumerate(row.answer):
        decoder = stream_of_row([*row.prompt, *row.answer[:number]])
        if subject.form.visible:
            prompt = torch.arange(decoder.ids.shape[1]) < len(row.prompt)
            decoder = replace(decoder, visible=prompt.unsqueeze(0))
        encoder = stream_of_row([*row.encoder]) if row.encoder else None
        output = subject.model(batch_of(decoder, encoder))
        logits = output.head.logits(output.hidden[0, -1]).double()
        total += float(logits[token] - logits.logsumexp(0))
        greedy &= int(logits.argmax()) == token
    return total, greedy


@pytest.mark.parametrize("case", CASES)
def test_token_by_token(case: str) -> None:
    for objective in objectives(case):
        subject = subject_of(case, objective)
        rows = [subject.form.row(*pair) for pair in PAIRS]
        found = subject.likelihoods(rows)
        for row, each in zip(rows, found, strict=True):
            total, greedy = slowly(subject, row)
            assert each.total == pytest.approx(total, rel=1e-5)
            assert each.greedy == greedy


@pytest.mark.parametrize("case", CASES)
def test_alone_and_together(case: str) -> None:
    for objective in objectives(case):
        subject = subject_of(case, objective)
        rows = [subject.form.row(*pair) for pair in PAIRS]
        together = [each.total for each in subject.likelihoods(rows)]
        alone = [subject.likelihoods([row])[0].total for row in rows]
        assert together == pytest.approx(alone, rel=1e-5)
        backwards = [each.total for each in subject.likelihoods(rows[::-1])]
        assert backwards[::-1] == pytest.approx(together, rel=1e-5)


@pytest.mark.parametrize("group", [RowsGroup(), RowsGroup(2), DocumentGroup()])
@pytest.mark.parametrize("case", ["sparse_glam", "switch"])
def test_nothing_is_dropped_whatever_the_evaluation_capacity(case, group) -> None:
    objective = objectives(case)[0]
    free = subject_of(case, objective)
    tight = subject_of(case, objective, eval_capacity_factor=0.25, min_capacity=1, group=group)
    rows = [free.form.row(*pair) for pair in PAIRS[:3]]
    expected = [each.total for each in free.likelihoods(rows)]
    assert [each.total for each in tight.likelihoods(rows)] == pytest.approx(expected, rel=1e-6)


def test_a_row_is_alone_where_padding_takes_slots() -> None:
    """As transformers evaluates Switch: what stands beside a row must not change its score."""
    slots = {"eval_slots": 2, "priority": "score", "allow_future_routing": True}
    subject = subject_of("switch", objectives("switch")[0], **slots)
    rows = [subject.form.row(*pair) for pair in PAIRS]
    together = [each.total for each in subject.likelihoods(rows)]
    assert together == [subject.likelihoods([row])[0].total for row in rows]
    batched = [each.total for each in likelihoods(subject.model, rows)]
    assert batched != pytest.approx(together, rel=1e-5)
    prompts = [subject.form.prompt(context, 6) for context, _ in PAIRS]
    alone = [subject.answers([prompt], 6)[0] for prompt in prompts]
    assert subject.answers(prompts, 6) == alone


def test_a_greedy_answer_is_known() -> None:
    """What the model writes is greedy behind its prompt, and with another end it is not."""
    subject = subject_of("modern", CausalConfig())
    prompt = subject.form.prompt("start", 6).prompt
    row = Row(prompt, (0,))
    written: list[int] = []
    for _ in range(4):
        logits = _logits(subject, [*prompt, *written])
        written.append(int(logits.argmax()))
    good, bad = (*written,), (*written[:-1], (written[-1] + 1) % 384)
    found = subject.likelihoods([replace(row, answer=good), replace(row, answer=bad)])
    assert [each.greedy for each in found] == [True, False]


@torch.no_grad()
def _logits(subject: Subject, tokens: list[int]) -> torch.Tensor:
    output = subject.model(batch_of(stream_of_row(tokens)))
    return output.head.logits(output.hidden[0, -1])


@pytest.mark.parametrize("case", ["sparse_glam", "switch"])
def test_every_row_has_the_label(case: str) -> None:
    objective = objectives(case)[0]
    config = config_of(case, LENGTH, router=LabelRouter(3))
    model, form = model_of(config), form_of(objective, config, BYTES)
    rows = [form.row(*pair) for pair in PAIRS]
    totals = [
        tuple(each.total for each in Subject("x", model, form, label).likelihoods(rows))
        for label in (0, 1)
    ]
    assert totals[0] != totals[1]


def test_the_mode_of_the_model_is_restored_and_progress_is_told() -> None:
    subject = subject_of("modern", CausalConfig())
    subject.model.train()
    told: list[tuple[int, int]] = []
    rows = [subject.form.row("a", " b")] * (BATCH_ROWS + 3)
    likelihoods(subject.model, rows, tell=lambda *each: told.append(each))
    assert subject.model.training
    assert told == [(BATCH_ROWS, BATCH_ROWS + 3), (BATCH_ROWS + 3, BATCH_ROWS + 3)]
    assert subject.likelihoods([]) == []


def test_batches_hold_what_they_may_and_every_row_once() -> None:
    lengths = [1 + 97 * i % 700 for i in range(300)]
    made = list(batches(lengths))
    assert sorted(i for batch in made for i in batch) == list(range(300))
    for batch in made:
        assert len(batch) <= BATCH_ROWS
        assert len(batch) * max(lengths[i] for i in batch) <= BATCH_TOKENS
    assert [len(batch) for batch in batches([BATCH_TOKENS + 1, 5])] == [1, 1]
    assert list(batches([])) == []


def test_even_weights_give_every_token_the_same() -> None:
    """Logits of zero: each of the 384 ids has ln 384, whatever is read."""
    subject = subject_of("modern", CausalConfig())
    assert subject.model.head is not None
    with torch.no_grad():
        subject.model.head.weight.zero_()
    (found,) = subject.likelihoods([subject.form.row("context", " abc")])
    assert found.total == pytest.approx(-4 * math.log(384), rel=1e-6)
