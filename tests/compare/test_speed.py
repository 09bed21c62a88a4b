"""Speed-ups worked out by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.compare.speed import Ratio, Reach, reach, running_minimum, speed_up, spread

STEPS = (100.0, 200.0, 300.0, 400.0)


def test_between_two_evaluations_the_curve_is_a_line():
    # From 3 at 200 to 2 at 300: 2.4 is 0.6 of the way, at 200 + 60.
    reached = reach(STEPS, (4.0, 3.0, 2.0, 1.0), 2.4)
    assert reached is not None and not reached.first
    assert reached.spent == pytest.approx(260)


def test_a_noisy_curve_counts_from_its_running_minimum():
    # 3, 3 (not 3.5), 2, 2 (not 2.2): from 3 at 200 to 2 at 300, 2.5 is at 250.
    losses = (3.0, 3.5, 2.0, 2.2)
    assert running_minimum(losses) == (3.0, 3.0, 2.0, 2.0)
    assert reach(STEPS, losses, 2.5) == Reach(250.0, first=False)


def test_a_quality_of_an_evaluation_is_reached_there():
    assert reach(STEPS, (4.0, 3.0, 2.0, 1.0), 3.0) == Reach(200.0, first=False)


def test_of_equal_minima_the_first_counts():
    assert reach(STEPS, (4.0, 2.0, 2.0, 2.0), 2.0) == Reach(200.0, first=False)


def test_what_is_not_reached_is_not_extrapolated():
    assert reach(STEPS, (4.0, 3.0, 2.0, 1.0), 0.999) is None
    assert reach((), (), 1.0) is None


def test_what_the_first_evaluation_has_may_have_come_before_it():
    assert reach(STEPS, (4.0, 3.0, 2.0, 1.0), 4.0) == Reach(100.0, first=True)
    assert reach(STEPS, (4.0, 3.0, 2.0, 1.0), 5.0) == Reach(100.0, first=True)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_loss_that_is_not_finite_is_none(bad):
    assert running_minimum((bad, 2.0, bad, 1.0)) == (math.inf, 2.0, 2.0, 1.0)
    # Nothing can be drawn from an infinite loss: it is reached where it was seen.
    assert reach(STEPS, (bad, 2.0, bad, 1.0), 3.0) == Reach(200.0, first=False)
    assert reach(STEPS, (bad,) * 4, 3.0) is None


def test_the_speed_up_is_the_baselines_steps_over_ours():
    # The baseline ends at 2.0 after 400 steps; ours is at 2.0 half way from 2.5 (200) to 1.5 (300).
    ratio = speed_up(STEPS, (5.0, 4.0, 3.0, 2.0), STEPS, (4.0, 2.5, 1.5, 1.0))
    assert ratio == Ratio(400 / 250)
    assert ratio.text() == "1.60"


def test_a_curve_against_itself_is_one():
    losses = (5.0, 3.0, 3.5, 2.0)
    assert speed_up(STEPS, losses, STEPS, losses) == Ratio(1.0)


def test_a_baseline_that_overfits_is_not_charged_for_it():
    # Best at 200 steps; ours gets there at 100 + 100 * (4 - 3) / (4 - 2) = 150.
    ratio = speed_up(STEPS, (5.0, 3.0, 3.5, 4.0), STEPS, (4.0, 2.0, 2.0, 2.0))
    assert ratio == Ratio(200 / 150)


def test_reached_at_the_first_evaluation_is_a_lower_bound():
    ratio = speed_up(STEPS, (5.0, 4.0, 3.0, 2.0), STEPS, (1.0, 1.0, 1.0, 1.0))
    assert ratio == Ratio(4.0, at_least=True)
    assert ratio.text() == "at least 4.00"


def test_never_reached_has_no_number():
    ratio = speed_up(STEPS, (5.0, 4.0, 3.0, 2.0), STEPS, (5.0, 4.5, 4.0, 3.5))
    assert ratio == Ratio(None)
    assert ratio.text() == "not reached"
    assert speed_up(STEPS, (math.inf,) * 4, STEPS, (1.0,) * 4) == Ratio(None)
    assert speed_up((), (), STEPS, (1.0,) * 4) == Ratio(None)


def test_other_evaluations_and_another_clock():
    # 2.0 after 8 seconds; ours from 3 (at 1 s) to 1 (at 4 s): 2.0 after 2.5 s.
    assert speed_up((2.0, 8.0), (3.0, 2.0), (1.0, 4.0), (3.0, 1.0)) == Ratio(8 / 2.5)


@given(
    st.lists(st.floats(0.1, 10), min_size=1, max_size=20),
    st.floats(0.1, 10),
)
def test_reaching_is_monotone_in_the_target(losses, target):
    spent = [float(place) for place in range(1, len(losses) + 1)]
    easy, hard = reach(spent, losses, target + 0.5), reach(spent, losses, target)
    if hard is not None:
        assert easy is not None and easy.spent <= hard.spent
        assert 1 <= hard.spent <= len(losses)
    assert (hard is None) == (min(losses) > target)


def test_the_spread_of_an_odd_and_an_even_number_of_seeds():
    three = spread([Ratio(1.5), Ratio(1.1), Ratio(1.2)])
    assert (three.median, three.low, three.high) == (Ratio(1.2), Ratio(1.1), Ratio(1.5))
    assert three.text() == "1.20 (1.10 to 1.50)"
    # (1.1 + 1.5) / 2 = 1.3
    assert spread([Ratio(1.5), Ratio(1.1)]).median.value == pytest.approx(1.3)
    assert spread([Ratio(1.25)]).text() == "1.25"


def test_a_seed_that_never_arrives_ranks_last():
    found = spread([Ratio(1.5), Ratio(None), Ratio(1.1)])
    assert (found.median, found.low, found.high) == (Ratio(1.1), Ratio(None), Ratio(1.5))
    assert found.text() == "1.10 (up to 1.50, reached by 2 of 3 seeds)"
    two = spread([Ratio(None), Ratio(1.5)])
    assert two.text() == "not reached (up to 1.50, reached by 1 of 2 seeds)"
    assert spread([Ratio(None)] * 3).text() == "not reached by any of 3 seeds"


def test_bounds_stay_bounds_in_a_median():
    assert spread([Ratio(2.0, True), Ratio(1.0)]).median == Ratio(1.5, True)


def test_no_ratio_has_no_spread():
    with pytest.raises(ValueError, match="at least one"):
        spread([])
