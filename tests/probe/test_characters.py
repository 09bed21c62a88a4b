"""Classes of characters, in place; text made printable."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from turnout.data.tokenizers import ByteTokenizer
from turnout.probe.characters import CLASSES, SPECIAL, classify, printable, visible

TOKENIZER = ByteTokenizer()


def names(ids: list[int], mask: list[bool] | None = None) -> list[str]:
    row = np.array([ids], dtype=np.int64)
    real = np.ones_like(row, dtype=bool) if mask is None else np.array([mask])
    return [CLASSES[index].name for index in classify(row, real)[0].tolist()]


def of(text: bytes) -> list[str]:
    return names(TOKENIZER.encode(text))


def test_every_class_by_example():
    assert of(b"x_1 = {'A': -2}\n\xff") == [
        *("a to z", "_ and .", "0 to 9", "space", "operators", "space", "brackets", "quotes"),
        *("A to Z", "quotes", "punctuation", "space", "operators", "0 to 9", "brackets"),
        *("line break", "other bytes"),
    ]


def test_only_spaces_that_begin_a_line_are_indentation():
    assert of(b"a  b\n \t c d") == [
        *("a to z", "space", "space", "a to z", "line break"),
        *("indent", "indent", "indent", "a to z", "space", "a to z"),
    ]


def test_a_row_that_begins_in_the_middle_of_a_line_has_no_indentation_there():
    assert of(b"  a")[:2] == ["space", "space"]


def test_indentation_behind_the_start_and_the_end_of_a_text():
    space = TOKENIZER.encode(" ")
    assert names([TOKENIZER.pad, *space, *space]) == ["special", "indent", "indent"]
    assert names([TOKENIZER.eos, *space]) == ["special", "indent"]


def test_a_sentinel_does_not_begin_a_line():
    assert names([TOKENIZER.sentinel(0), *TOKENIZER.encode(" ")]) == ["special", "space"]


def test_padding_is_special_whatever_its_id():
    ids = TOKENIZER.encode("a a")
    assert names(ids, [False, False, True]) == ["special", "special", "a to z"]
    assert names(TOKENIZER.encode("a b"), [False, True, True])[1] == "indent"


def test_rows_do_not_see_each_other():
    rows = np.array([TOKENIZER.encode("a\n"), TOKENIZER.encode(" b")])
    assert CLASSES[classify(rows, np.ones_like(rows, dtype=bool))[1, 0]].name == "space"


def test_ids_beyond_the_bytes_are_special():
    assert names([2, 383, 259, 100_000]) == ["special"] * 4


def test_the_definitions_are_a_partition():
    # Indentation and space share their bytes: the place decides. All others are apart.
    values = [value for kind in CLASSES[1:] for value in kind.values]
    assert sorted(values) == list(range(256))
    assert set(CLASSES[0].values) < set(CLASSES[1].values)


@given(st.binary(min_size=1, max_size=40))
def test_a_byte_has_a_class_that_lists_it(text: bytes):
    ids = np.array([TOKENIZER.encode(text)])
    found = classify(ids, np.ones_like(ids, dtype=bool))[0].tolist()
    assert all(byte in CLASSES[c].values for byte, c in zip(text, found, strict=True))
    assert SPECIAL not in found


def test_visible_text():
    ids = (0, *TOKENIZER.encode("a\\\n\t\r\0é "), TOKENIZER.sentinel(7), 1, 2, 384)
    assert visible(ids) == ("<start>a\\\\\\n\\t\\r\\x00\\xc3\\xa9 <blank 7><end><unknown><id 384>")


@given(st.lists(st.integers(0, 383)))
def test_visible_text_is_printable_ascii(ids: list[int]):
    text = visible(tuple(ids))
    assert text.isascii()
    assert text == "" or text.isprintable()


def test_printable_escapes_control_and_direction_and_keeps_letters():
    assert printable("a\0b\u202e\n\ud800") == "a\\x00b\\u202e\\n\\ud800"
    assert printable("שלום </script>\"'") == "שלום </script>\"'"
    assert printable("x" * 99, 10) == "x" * 9 + "…"
