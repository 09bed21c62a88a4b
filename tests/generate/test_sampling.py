"""Choosing a token, by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from turnout.config.errors import ConfigError
from turnout.generate import GenerateOptions
from turnout.generate.sampling import choose, row_keys, uniform

# Probabilities 0.5, 0.25, 0.125, 0.125 of tokens 2, 0, 1, 3.
LOGITS = torch.tensor([[0.25, 0.125, 0.5, 0.125]]).log()


def chosen(draw: float, **options: float | int | None) -> int:
    at = torch.tensor([draw], dtype=torch.float64)
    return int(choose(LOGITS, GenerateOptions(**{"temperature": 1.0} | options), at))


def test_greedy_takes_the_most_probable_whatever_the_draw() -> None:
    assert {chosen(draw, temperature=0.0) for draw in (0.0, 0.5, 0.999)} == {2}


@pytest.mark.parametrize(
    ("draw", "token"), [(0.0, 2), (0.49, 2), (0.51, 0), (0.74, 0), (0.76, 1), (0.874, 1), (0.99, 3)]
)
def test_the_draw_walks_the_distribution_from_the_most_probable(draw: float, token: int) -> None:
    # Cumulative from the most probable: 0.5 (token 2), 0.75 (0), 0.875 (1), 1 (3).
    assert chosen(draw) == token


def test_temperature() -> None:
    # Temperature 0.5 squares: 1/4, 1/16, 1/64, 1/64, sum 22/64; the first holds 16/22 = 0.727.
    assert (chosen(0.72, temperature=0.5), chosen(0.73, temperature=0.5)) == (2, 0)


def test_top_k_keeps_the_first_k() -> None:
    # Of 0.5 and 0.25 the first is two thirds.
    assert (chosen(0.66, top_k=2), chosen(0.67, top_k=2), chosen(1 - 2**-53, top_k=2)) == (2, 0, 0)
    assert chosen(0.99, top_k=100) == 3


def test_top_p_keeps_the_fewest_that_reach_it() -> None:
    # 0.5 alone reaches 0.5; 0.6 needs the second, 0.8 the third.
    assert chosen(1 - 2**-53, top_p=0.5) == 2
    assert chosen(1 - 2**-53, top_p=0.6) == 0
    assert chosen(1 - 2**-53, top_p=0.8) == 1
    assert chosen(0.99, top_p=1.0) == 3


def test_top_p_stops_where_it_is_reached_exactly() -> None:
    # Two tokens of 0.5 each: the first alone reaches 0.5.
    options = GenerateOptions(temperature=1.0, top_p=0.5)
    draw = torch.tensor([1 - 2**-53], dtype=torch.float64)
    assert choose(torch.zeros(1, 2), options, draw).item() == 0


def test_top_p_counts_what_top_k_has_left() -> None:
    # After top-2: 2/3 and 1/3; 0.6 is reached by the first alone.
    assert chosen(1 - 2**-53, top_k=2, top_p=0.6) == 2


@given(st.integers(0, 2**32), st.integers(0, 10_000))
def test_draws_lie_in_the_unit_interval_and_repeat(seed: int, position: int) -> None:
    keys = row_keys(seed, [[1, 2], [3]])
    draw = uniform(keys, position)
    assert ((draw >= 0) & (draw < 1)).all()
    assert torch.equal(draw, uniform(keys, position))
    assert draw[0] != draw[1]


def test_draws_are_uniform() -> None:
    keys = row_keys(0, [[i] for i in range(200)])
    draws = torch.stack([uniform(keys, position) for position in range(50)]).flatten()
    # 10,000 draws: mean 1/2 within 0.0029 a deviation, tenths 1,000 within 30 a deviation.
    assert abs(draws.mean().item() - 0.5) < 0.012
    assert (draws.histc(10, 0, 1) - 1000).abs().max() < 130


def test_keys_belong_to_prompts_and_not_to_places() -> None:
    one = row_keys(0, [[5, 6], [7], [5, 6]])
    other = row_keys(0, [[7], [5, 6]])
    assert one[0] == other[1] and one[1] == other[0]
    assert len(np.unique(one)) == 3  # the same prompt twice: two samples
    assert row_keys(1, [[7]])[0] != other[0]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_new_tokens", 0),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_k", 0),
        ("top_p", 0.0),
        ("top_p", 1.5),
    ],
)
def test_options_refuse_what_makes_no_sense(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"^{field} = "):
        GenerateOptions(**{field: value})
