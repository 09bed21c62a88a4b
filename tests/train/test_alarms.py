"""Alarms from plain reports: each condition, its patience, and what it says."""

from dataclasses import replace
from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.config.guards import AlarmConfig
from turnout.config.losses import LossConfig
from turnout.train.actions import answer, with_coefficients
from turnout.train.alarms import WINDOW, Alarm, LayerWatch, effective_experts, watch
from turnout.train.control import Best, Control
from turnout.train.report import LayerReport

CONFIG = AlarmConfig(patience=3, repeat=10, dead_after=5)
EVEN = LayerReport("decoder.1.moe", (256,) * 4, 1024, 1024, 1024, 0, log(4), 1, 1.5, 1.0)


def raised(layers: list[LayerReport], config: AlarmConfig = CONFIG) -> list[tuple[int, str, str]]:
    """(step from 1, name, text) of the alarms of one layer's reports."""
    seen, found = {}, []
    for step, layer in enumerate(layers, start=1):
        seen, alarms = watch(seen, (layer,), config)
        found += [(step, alarm.name, alarm.text) for alarm in alarms]
    return found


def loads(*counts: int) -> LayerReport:
    return replace(EVEN, assigned=counts, wanted=sum(counts), kept=sum(counts), tokens=sum(counts))


def test_effective_experts() -> None:
    assert effective_experts([5, 5, 5, 5]) == pytest.approx(4)
    assert effective_experts([7, 0, 0]) == 1
    # shares .5 .25 .25: entropy .5 ln 2 + 2 * .25 ln 4 = 1.5 ln 2, so 2^1.5
    assert effective_experts([2, 1, 1]) == pytest.approx(2**1.5)
    assert effective_experts([0, 0]) == 1


def test_even_loads_raise_nothing() -> None:
    assert raised([EVEN] * 600, AlarmConfig()) == []


def test_a_collapse_is_raised_after_its_patience_and_again() -> None:
    # 1000 of 1024 to one expert: shares .977 and 3 x .0078: entropy .0231 + 3 * .0379 = .137
    found = raised([loads(1000, 8, 8, 8)] * 14)
    assert [(step, name) for step, name, _ in found] == [(3, "collapse"), (13, "collapse")]
    assert "nearly all to 1.15 of 4 experts (expert 0 gets 98%" in found[0][2]
    assert "for 3 steps; raise losses.balance" in found[0][2]


def test_one_even_step_ends_a_collapse() -> None:
    bad = loads(1024, 0, 0, 0)
    assert raised([bad, bad, EVEN, bad, bad, EVEN]) == []


def test_two_experts_of_two_choices_are_a_collapse_too() -> None:
    both = replace(loads(512, 512, 0, 0), active=2)
    assert raised([both] * 3)[0][1] == "collapse"
    assert raised([replace(both, assigned=(512, 512))] * 3) == []  # there are no others


def test_a_dead_expert_is_named_with_its_age() -> None:
    # The mean load is 256: after 4 steps 1024 assignments are missed, and 5 steps make it dead.
    found = raised([loads(400, 400, 224, 0)] * 16)
    assert [(step, name) for step, name, _ in found] == [(5, "dead"), (15, "dead")]
    assert found[0][2].startswith("1 of 4 experts got no token for 5 steps: 3; raise losses.")


def test_an_expert_that_few_tokens_could_reach_is_not_dead() -> None:
    # 4 tokens a step over 4 experts: 1 assignment missed a step, 1000 after 1000 steps.
    few = loads(2, 1, 1, 0)
    found = raised([few] * 1001)
    assert found[0][:2] == (1000, "dead")


def test_grown_logits() -> None:
    grown = replace(EVEN, log_sum_exp=15.1)
    ((step, name, text),) = raised([EVEN, grown, grown, grown])
    assert (step, name) == (4, "logits")
    assert "log-sum-exp 15.1, 1.4 when all are zero; raise losses.router_z" in text


def test_drops_are_a_spike_only_against_what_was_usual() -> None:
    some, many = replace(EVEN, kept=1024 - 205), replace(EVEN, kept=512)  # 20%, 50%
    assert raised([many] * (WINDOW + 50)) == []  # half was usual all along
    assert raised([some] * (WINDOW + 1) + [many] * 3) == []  # 50% is not three times 20%
    usual = replace(EVEN, kept=1000)  # 2.3%
    ((step, name, text),) = raised([usual] * WINDOW + [many] * 3)
    assert (step, name) == (WINDOW + 3, "drops")
    assert text.startswith("50% of the assignments find no slot, 2% in the median")


def test_a_balance_loss_below_any_honest_one() -> None:
    low = replace(EVEN, balance_loss=0.4)
    assert [found[:2] for found in raised([low] * 3)] == [(3, "balance")]
    assert raised([replace(EVEN, balance_loss=0.0)] * 9) == []  # a router without probabilities


def test_off_watches_nothing() -> None:
    assert raised([loads(1024, 0, 0, 0)] * 50, replace(CONFIG, on=False)) == []


@given(st.lists(st.tuples(*[st.integers(0, 50)] * 4), min_size=1, max_size=30))
def test_what_is_remembered_survives_a_checkpoint(counts: list[tuple[int, ...]]) -> None:
    seen = {}
    for each in counts:
        seen, _ = watch(seen, (loads(*each),), CONFIG)
    control = Control(3, 1, 2, Best(4, 1.5), seen, {"balance": 0.02})
    assert Control.from_json(control.to_json()) == control
    assert len(seen["decoder.1.moe"].dropped) == min(len(counts), WINDOW)


def test_actions_double_the_coefficient_within_bounds() -> None:
    losses = LossConfig(balance=0.01, router_z=0.0)
    collapse, logits = (Alarm(name, "decoder.1.moe", "") for name in ("collapse", "logits"))
    (first,) = answer([collapse, Alarm("dead", "decoder.3.moe", "")], losses, {})
    assert (first.coefficient, first.before, first.after) == ("balance", 0.01, 0.02)
    assert first.text == "losses.balance 0.01 -> 0.02, because of collapse"
    (top,) = answer([collapse], losses, {"balance": 0.08})
    assert top.after == 0.1  # ten times what was configured, and no more
    assert answer([collapse], losses, {"balance": 0.1}) == ()
    (on,) = answer([logits], losses, {})
    assert (on.before, on.after) == (0.0, 0.001)
    assert answer([Alarm("drops", "decoder.1.moe", "")], losses, {}) == ()
    assert with_coefficients(losses, {"balance": 0.02}) == replace(losses, balance=0.02)


def test_a_watch_begins_with_nothing() -> None:
    assert LayerWatch() == LayerWatch(0, 0, 0, 0, (), (), ())
