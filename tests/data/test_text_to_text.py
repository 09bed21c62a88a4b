import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.config.errors import ConfigError, UserError
from turnout.config.objective import TextToTextConfig
from turnout.data.examples import Example
from turnout.data.rows import Examples
from turnout.data.text_to_text import PairRows, pair_rows
from turnout.data.tokenizers import ByteTokenizer

# Byte b is id b + 3: a = 97 + 3 = 100, b 101, c 102, ..; x 123, y 124, z 125; end of text is 1.
T2T, TOKENIZER = TextToTextConfig(), ByteTokenizer()
SHORT = [
    Example(b"ab", b"x", "f line 1"),
    Example(b"c", b"yz", "f line 2"),
    Example(b"", b"z", "f line 3"),
]
pairs = st.lists(
    st.tuples(st.binary(max_size=9), st.binary(min_size=1, max_size=9)), min_size=1, max_size=12
)


def all_rows(rows: PairRows) -> Examples:
    every = np.arange(rows.num_rows)
    return rows.read(every, every)


def test_two_streams_written_out() -> None:
    # Inputs and an end: 3, 2 and 1 tokens; targets and an end: 2, 3 and 2. Six and five positions
    # hold the first two (5 and 5); the third begins the second row.
    found = all_rows(pair_rows(SHORT, TOKENIZER, T2T, 6, 5))
    assert found.encoder.ids.tolist() == [[100, 101, 1, 102, 1, 0], [1, 0, 0, 0, 0, 0]]
    assert found.encoder.segment.tolist() == [[1, 1, 1, 2, 2, 0], [1, 0, 0, 0, 0, 0]]
    assert found.encoder.position.tolist()[0] == [0, 1, 2, 0, 1, 0]
    assert found.targets.tolist() == [[123, 1, 124, 125, 1], [125, 1, 0, 0, 0]]
    assert found.decoder.ids.tolist() == [[0, 123, 0, 124, 125], [0, 125, 0, 0, 0]]
    assert found.decoder.segment.tolist() == [[1, 1, 2, 2, 2], [1, 1, 0, 0, 0]]
    assert found.decoder.position.tolist()[0] == [0, 1, 0, 1, 2]
    assert found.target_mask.tolist() == (found.decoder.segment > 0).tolist()
    assert found.encoder.max_segments == found.decoder.max_segments == 16
    assert found.decoder.visible is None


def test_one_stack_written_out() -> None:
    # Text  a b 1 x 1  and  c 1 y z 1  fill ten places;  1 z 1  is the second row.
    found = all_rows(pair_rows(SHORT, TOKENIZER, T2T, 0, 10))
    assert found.encoder is None
    assert found.targets.tolist() == [
        [100, 101, 1, 123, 1, 102, 1, 124, 125, 1],
        [1, 125, 1, 0, 0, 0, 0, 0, 0, 0],
    ]
    assert found.decoder.ids.tolist() == [
        [0, 100, 101, 1, 123, 0, 102, 1, 124, 125],
        [0, 1, 125, 0, 0, 0, 0, 0, 0, 0],
    ]
    assert found.decoder.segment[0].tolist() == [1] * 5 + [2] * 5
    # Loss begins where the end of the inputs is read: x 1, y z 1, z 1.
    loss = [[0, 0, 0, 1, 1, 0, 0, 1, 1, 1], [0, 1, 1, 0, 0, 0, 0, 0, 0, 0]]
    assert found.target_mask.int().tolist() == loss
    visible = all_rows(
        pair_rows(SHORT, TOKENIZER, TextToTextConfig(visible_inputs=True), 0, 10)
    ).decoder
    # The inputs, their end, and the start before them.
    shown = [[1, 1, 1, 1, 0, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0, 0, 0]]
    assert visible.visible.int().tolist() == shown


def test_a_bound_of_one_packs_nothing() -> None:
    rows = pair_rows(SHORT, TOKENIZER, TextToTextConfig(max_examples=1), 6, 5)
    assert rows.begin.tolist() == [0, 1, 2, 3]
    assert all_rows(rows).decoder.max_segments == 1
    assert pair_rows(SHORT, TOKENIZER, TextToTextConfig(max_examples=2), 99, 99).begin.tolist() == [
        0,
        2,
        3,
    ]


def test_what_is_too_long_for_two_streams_is_cut_at_its_end() -> None:
    long = [Example(b"abcdef", b"xyz", "f line 1")]
    # Four positions: a b c and an end; x y z and their end fit as they are.
    found = all_rows(pair_rows(long, TOKENIZER, T2T, 4, 4))
    assert found.encoder.ids.tolist() == [[100, 101, 102, 1]]
    assert found.targets.tolist() == [[123, 124, 125, 1]]
    # Three: x y z without an end, since the end was not reached.
    rows = pair_rows(long, TOKENIZER, T2T, 4, 3)
    assert all_rows(rows).targets.tolist() == [[123, 124, 125]]
    assert rows.kept.cut.tolist() == [True]
    assert all_rows(pair_rows(long, TOKENIZER, T2T, 4, 2)).targets.tolist() == [[123, 124]]


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (11, [100, 101, 102, 103, 104, 105, 1, 123, 124, 125, 1]),  # 6 + 1 + 3 + 1: all of it
        (10, [100, 101, 102, 103, 104, 1, 123, 124, 125, 1]),  # a token of the inputs less
        (8, [100, 101, 102, 1, 123, 124, 125, 1]),  # half of the row each
        (7, [100, 101, 1, 123, 124, 125, 1]),  # targets take 4 of 7, which leaves 3
        (6, [100, 101, 1, 123, 124, 125]),  # inputs keep half, the targets lose their end
        (4, [100, 1, 123, 124]),
    ],
)
def test_what_is_too_long_for_one_stack(length: int, text: list[int]) -> None:
    rows = pair_rows([Example(b"abcdef", b"xyz", "")], TOKENIZER, T2T, 0, length)
    assert all_rows(rows).targets.tolist() == [text]
    assert rows.kept.cut.tolist() == [length < 11]


def test_what_is_too_long_is_refused_if_asked() -> None:
    refuse = TextToTextConfig(too_long="refuse")
    assert pair_rows(SHORT, TOKENIZER, refuse, 3, 3).num_rows == 3
    with pytest.raises(UserError) as error:
        pair_rows(SHORT, TOKENIZER, refuse, 3, 2)
    assert str(error.value) == (
        "data.paths: f line 2 is too long, as 1 of 3 examples are: 1 tokens of inputs and 2 of "
        "targets do not fit; raise model.encoder_length or model.decoder_length, or set "
        "objective.too_long = 'cut'"
    )
    with pytest.raises(UserError, match=r"raise model\.length, or"):
        pair_rows(SHORT, TOKENIZER, refuse, 0, 4)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ((1, 8), r"model\.encoder_length = 1: must be at least 2"),
        ((8, 1), r"model\.decoder_length = 1: must be at least 2"),
        ((0, 3), r"model\.length = 3: must be at least 4"),
    ],
)
def test_lengths_that_hold_no_example(lengths: tuple[int, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pair_rows(SHORT, TOKENIZER, T2T, *lengths)


@given(pairs, st.integers(0, 12), st.integers(4, 14), st.integers(1, 4))
def test_every_example_is_there_once_as_far_as_it_fits(
    texts: list[tuple[bytes, bytes]], encoder: int, decoder: int, most: int
) -> None:
    encoder = 0 if encoder < 2 else encoder
    examples = [Example(*text, "") for text in texts]
    rows = pair_rows(examples, TOKENIZER, TextToTextConfig(max_examples=most), encoder, decoder)
    found = all_rows(rows)
    seen = 0
    for row in range(rows.num_rows):
        segments = int(found.decoder.segment[row].max())
        assert 1 <= segments <= most
        for segment in range(1, segments + 1):
            here = found.decoder.segment[row] == segment
            text = found.targets[row][here].tolist()
            answer = found.targets[row][here & found.target_mask[row]].tolist()
            prompt = text[: len(text) - len(answer)]
            if encoder:
                assert prompt == []
                prompt = found.encoder.ids[row][found.encoder.segment[row] == segment].tolist()
            inputs, targets = ([byte + 3 for byte in part] for part in texts[seen])
            assert prompt[-1] == 1 and inputs[: len(prompt) - 1] == prompt[:-1]
            assert [*targets, 1][: len(answer)] == answer and answer
            assert found.decoder.ids[row][here].tolist() == [0, *text[:-1]]
            whole = len(prompt) + len(answer) == len(inputs) + len(targets) + 2
            assert bool(rows.kept.cut[seen]) == (not whole)
            seen += 1
        if encoder:
            assert int(found.encoder.segment[row].max()) == segments
    assert seen == len(texts)
    # The bytes of the joined documents, inputs before targets, that are targets.
    joined = b"".join(inputs + targets for inputs, targets in texts)
    every = np.arange(rows.num_rows)
    predicted = [joined[at] + 3 for at in rows.predicted(every[::-1], every).tolist()]
    flat = found.targets[found.target_mask].tolist()
    assert predicted == [token for token in flat if token != 1]


def test_rows_can_be_read_in_any_order() -> None:
    rows = pair_rows(SHORT * 5, TOKENIZER, T2T, 6, 5)
    whole = all_rows(rows)
    some = rows.read(np.array([4, 0, 4]), np.array([9, 9, 9]))
    for name in ("targets", "target_mask"):
        assert getattr(some, name).tolist() == getattr(whole, name)[[4, 0, 4]].tolist()
