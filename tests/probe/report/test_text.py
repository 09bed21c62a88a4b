"""Hostile text, escaped for the eye and for the island."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.probe.report.cases import HOSTILE
from turnout.probe.report.island import island
from turnout.probe.report.text import line, shown


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("a\nb\tc", "a\nb\tc"),
        ("\0\x1b\x7f\r", "\\x00\\x1b\\x7f\\r"),
        ("\u202e\u2066x", "\\u202e\\u2066x"),
        ("\u2028", "\\u2028"),
        ("\ud800", "\\ud800"),
        ("שלום \U0001f600", "שלום \U0001f600"),
        ("\U0001f468\u200d\U0001f469", "\U0001f468\u200d\U0001f469"),
        ("a\u3000b\xa0c", "a\u3000b\xa0c"),
        ("\ufeff\U000e0041", "\\ufeff\\U000e0041"),
    ],
)
def test_what_cannot_be_seen_is_escaped(text: str, seen: str):
    assert shown(text) == seen


def test_a_line_of_ten_megabytes_is_cut():
    seen = shown("x" * 10_000_000, 100)
    assert seen == "x" * 100 + " … (10,000,000 characters, the first 100 are shown)"
    assert len(line("\n" * 10_000_000)) < 1000
    assert line("a\n\tb") == "a\\n\\tb"


@given(st.text())
def test_only_breaks_and_joiners_are_unprintable(text: str):
    rest = shown(text).translate({ord(c): None for c in "\n\t\u200c\u200d"})
    assert all(c.isprintable() or c.isspace() for c in rest)
    assert not set(rest) & set("\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@given(st.text())
def test_the_island_holds_any_text_and_no_markup(text: str):
    content = island({text: [text, HOSTILE]})
    assert content.isascii()
    assert not set(content) & set("<>&")
    assert json.loads(content) == {text: [text, HOSTILE]}


def test_numbers_of_the_island():
    assert island([math.nan, math.inf, 1 / 3, 12345678, True, None, (1.0,)]) == (
        "[null,null,0.333333,12345678,true,null,[1.0]]"
    )
