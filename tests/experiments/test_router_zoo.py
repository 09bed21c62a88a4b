"""The comparison of all routers: nobody is left out, and all cost the same."""

import pytest
from experiments.cells import Result, Traffic
from experiments.router_zoo import FORMS, arithmetic, arm, dense, table

from turnout.config import io
from turnout.config.arithmetic import forward_flops
from turnout.conformance.examples import EXAMPLES


def result(loss=1.0, **computed):
    traffic = {
        f"{stack}.1.moe": Traffic(0.5, 1.0, 0.1, 0.2, experts)
        for stack, experts in computed.items()
    }
    return Result(loss=loss, traffic=traffic, speed=1000.0, seconds=60.0)


def test_no_router_is_left_out():
    assert set(EXAMPLES) <= set(FORMS)


@pytest.mark.parametrize("name", FORMS)
def test_all_cost_the_same_if_they_take_as_many_experts_as_they_say(name):
    found = arm(FORMS[name])
    assert io.parse_toml(io.dump_toml(found.config)) == found.config
    spent = 1.0 if name == "null_experts" else found.config.model.moe.router.active
    beside = found.config.model.moe.decoder_router.active
    cost = arithmetic(found, result(encoder=spent, decoder=beside)) / found.passes
    switch = forward_flops(arm(FORMS["switch"]).config.model, 1)
    assert cost == pytest.approx(switch, rel=0.01)
    assert found.passes == (2 if name == "thor" else 1)


def test_arithmetic_of_what_was_dropped_by_hand():
    # An expert of 128 * 512 twice, half of the encoder's 512 tokens not computed.
    switch = arm(FORMS["switch"])
    whole = arithmetic(switch, result(encoder=1.0, decoder=1.0))
    half = arithmetic(switch, result(encoder=0.5, decoder=1.0))
    assert whole == forward_flops(switch.config.model, 1)
    assert whole - half == 256 * 2 * (2 * 128 * 512)


def test_the_best_stands_first_and_the_dense_twin_has_no_loads():
    arms = {"dense twin": dense(), "switch": arm(FORMS["switch"])}
    found = {"dense twin": [result(2.0)], "switch": [result(1.5, encoder=0.5, decoder=0.5)]}
    first, second = table(arms, found).splitlines()[2:]
    assert first.startswith("| switch | 1.5000 | 0.50 | 10.0% | 20.0% | 0.50 | 0.")
    assert second.startswith("| dense twin | 2.0000 | - | - | - | - | 1.00 |")
