from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from turnout.config.errors import ConfigError, UserError
from turnout.config.train import SpanConfig
from turnout.data.side import Side
from turnout.data.span_corruption import corrupt, draw_spans, fit, span_lengths, span_rows
from turnout.data.tokenizers import ByteTokenizer

TOKENIZER = ByteTokenizer()


def held(*documents: bytes) -> Side:
    return Side.held(TOKENIZER.encode_documents(documents))


T5 = SpanConfig(noise_density=0.15, mean_span=3.0)
objectives = st.builds(SpanConfig, st.floats(0.01, 0.99), st.floats(1, 20))


# 568 raw tokens: noise round(85.2) = 85, spans round(85 / 3) = 28, so the encoder reads
# 568 - 85 + 28 + 1 = 512 and the decoder writes 85 + 28 + 1 = 114. The others are T5's as well;
# 1137: noise round(170.55) = 171, spans 57, 1137 - 171 + 57 + 1 = 1024 and 171 + 57 + 1 = 229.
@pytest.mark.parametrize(
    ("inputs", "raw", "targets"),
    [(64, 70, 14), (128, 141, 29), (256, 284, 58), (512, 568, 114), (1024, 1137, 229)],
)
def test_published_lengths(inputs: int, raw: int, targets: int) -> None:
    lengths = fit(inputs, T5, 125)
    assert (lengths.raw, lengths.inputs, lengths.targets) == (raw, inputs, targets)


def test_one_rounding_for_lengths_and_masks() -> None:
    # 190 * 0.15 = 28.5 rounds to the even 28 in double precision; in float32 it is 28.5000004,
    # and T5's mask has 29. Here mask and lengths are one number.
    lengths = span_lengths(190, T5)
    assert (lengths.noise, lengths.spans) == (28, 9)
    assert int((draw_spans(lengths, 0, np.arange(1)) % 2 == 1).sum()) == 28


@given(st.integers(3, 600), objectives)
def test_fit_is_the_longest_that_fits(inputs: int, objective: SpanConfig) -> None:
    try:
        best = fit(inputs, objective, 125)
    except ConfigError:
        assert inputs > 2 * 125
        return
    assert best.inputs <= inputs
    assert span_lengths(best.raw + 1, objective).inputs > inputs


def test_a_row_written_out() -> None:
    # a b c d e f  with the noise  b c  and  f: sentinels are 383 and 382, the end of text is 1.
    raw = np.array([[100, 101, 102, 103, 104, 105]])
    runs = np.array([[0, 1, 1, 2, 2, 3]])
    inputs, targets = corrupt(raw, runs, TOKENIZER)
    assert inputs.tolist() == [[100, 383, 103, 104, 382, 1]]
    assert targets.tolist() == [[383, 101, 102, 382, 105, 1]]


@given(st.integers(2, 200), objectives, st.integers(0, 1 << 40), st.integers(1, 4))
def test_inputs_and_targets_give_the_text_back(
    raw: int, objective: SpanConfig, seed: int, rows: int
) -> None:
    lengths = span_lengths(raw, objective)
    text = np.arange(rows * raw).reshape(rows, raw) % 256 + 3
    inputs, targets = corrupt(text, draw_spans(lengths, seed, np.arange(rows)), TOKENIZER)
    assert inputs.shape[1] == lengths.inputs and targets.shape[1] == lengths.targets
    # More than 125 spans would run into the bytes; rows refuse that before they come so far.
    if lengths.spans > 125:
        return
    for row in range(rows):
        assert _fill(inputs[row].tolist(), targets[row].tolist()) == text[row].tolist()


def _fill(inputs: list[int], targets: list[int]) -> list[int]:
    """Put the spans back where their sentinels stand."""
    assert inputs.pop() == targets.pop() == 1
    spans: dict[int, list[int]] = {}
    for token in targets:
        if token >= 259:
            current = spans[token] = []
        else:
            current.append(token)
    assert list(spans) == list(range(383, 383 - len(spans), -1))
    assert all(spans.values())
    filled: list[int] = []
    for token in inputs:
        filled += spans.pop(token) if token >= 259 else [token]
    assert not spans
    return filled


@given(st.integers(2, 200), objectives, st.integers(0, 1 << 40))
def test_runs_are_positive_and_begin_with_text(raw: int, objective: SpanConfig, seed: int) -> None:
    lengths = span_lengths(raw, objective)
    runs = draw_spans(lengths, seed, np.array([seed]))[0]
    assert runs[0] == 0 and runs[-1] == 2 * lengths.spans - 1
    assert set(np.diff(runs).tolist()) <= {0, 1}
    assert int((runs % 2 == 1).sum()) == lengths.noise


def test_all_splits_are_equally_likely() -> None:
    # 8 tokens, 4 of noise in 2 spans: 1+3, 2+2 or 3+1. Of 3,000 rows 1,000 each, with a standard
    # deviation of sqrt(3000 * 1/3 * 2/3) = 26: four of them are 104.
    lengths = span_lengths(8, SpanConfig(noise_density=0.5, mean_span=2.0))
    assert (lengths.noise, lengths.spans) == (4, 2)
    runs = draw_spans(lengths, 3, np.arange(3000))
    first = Counter((runs == 1).sum(axis=1).tolist())
    assert set(first) == {1, 2, 3}
    assert all(abs(count - 1000) < 104 for count in first.values())


def test_rows_are_chunks_of_the_joined_text() -> None:
    # 150 bytes make two chunks of 70; the last 10 bytes are left out.
    rows = span_rows(held(b"a" * 100, b"b" * 50), TOKENIZER, fit(64, T5, 125), seed=0)
    assert rows.num_rows == 2
    examples = rows.read(np.array([1, 0]), np.array([4, 9]))
    assert examples.encoder is not None
    assert examples.encoder.ids.shape == (2, 64) and examples.targets.shape == (2, 14)
    assert examples.decoder.ids[:, 0].tolist() == [0, 0]
    assert torch.equal(examples.decoder.ids[:, 1:], examples.targets[:, :-1])
    assert examples.decoder.mask.all() and examples.target_mask.all()
    filled = _fill(examples.encoder.ids[0].tolist(), examples.targets[0].tolist())
    assert filled == [100] * 30 + [101] * 40


def test_spans_depend_on_seed_and_row_number_alone() -> None:
    lengths = fit(64, T5, 125)
    together = draw_spans(lengths, 5, np.array([8, 9]))
    assert np.array_equal(draw_spans(lengths, 5, np.array([9]))[0], together[1])
    assert not np.array_equal(together[0], together[1])
    assert not np.array_equal(draw_spans(lengths, 6, np.array([8]))[0], together[0])


def test_predicted_bytes_are_those_inside_the_spans() -> None:
    rows = span_rows(held(bytes(range(140))), TOKENIZER, fit(64, T5, 125), seed=2)
    index, number = np.array([1]), np.array([7])
    targets = rows.read(index, number).targets[0]
    written = [token - 3 for token in targets.tolist() if 3 <= token < 259]
    assert rows.predicted(index, number).tolist() == written


def test_refusals() -> None:
    with pytest.raises(ConfigError, match=r"model.encoder_length = 2: must be at least 3"):
        fit(2, T5, 125)
    with pytest.raises(
        UserError, match="69 tokens of held-out text are too short for one row of 70"
    ):
        span_rows(held(b"x" * 69), TOKENIZER, fit(64, T5, 125), seed=0, name="held-out")
    # Every second token a span: 1,000 positions hold some 499 of them.
    with pytest.raises(ConfigError, match=r"encoder_length = 1000.*125 spans.*499.*mean_span"):
        fit(1000, SpanConfig(0.5, 1.0), 125)
