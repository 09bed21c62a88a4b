"""Protocols, and the arms that follow from them, with their arithmetic worked out by hand."""

from dataclasses import replace

import pytest
from tests.compare.cases import protocol, run

from turnout.config import io, presets
from turnout.config.arithmetic import deepened, forward_flops, step_flops
from turnout.config.arms import arms, count_runs, measured, pairs, total_flops, trials
from turnout.config.compare import (
    CompareConfig,
    Decayed,
    Deeper,
    Protocol,
    Wider,
    baseline_defaults,
    difference,
    from_table,
    resolved,
)
from turnout.config.errors import UserError
from turnout.config.optimizers import AdafactorConfig
from turnout.config.routers import TopKRouter
from turnout.config.schedules import InverseSqrt


def by_name(given: Protocol):
    return {arm.name: arm for arm in arms(given)}


def with_moe(config, **changes):
    return replace(config, model=replace(config.model, moe=replace(config.model.moe, **changes)))


def test_a_plain_switch_layer_has_a_plain_twin():
    # Router 2 * 8 * 4 = 64 FLOPs a token; everything else is the same.
    dense, sparse = arms(protocol())
    tokens = 32
    assert forward_flops(sparse.config.model, 1) - forward_flops(dense.config.model, 1) == (
        64 * tokens
    )
    assert dense.config.model == run().model.dense_twin()
    assert dense.notes == ()
    assert dense.config.losses.balance == dense.config.losses.router_z == 0
    # Three forward passes over two rows.
    assert sparse.step_flops == 3 * 2 * forward_flops(sparse.config.model, 1)


def test_two_experts_a_token_widen_the_twin():
    # A token, feed-forward networks alone. Sparse: 2 * 2 * 8 * 16 = 512 in the dense layer, and
    # 64 + 2 * 512 in the sparse one: 1600. The plain twin: 1024. A unit of d_ff in two layers:
    # 2 * 2 * 2 * 8 = 64, so d_ff = 16 + (1600 - 1024) / 64 = 25.
    given = resolved(with_moe(run(), router=TopKRouter(k=2)), CompareConfig(learning_rates=(1e-3,)))
    dense, sparse = arms(given)
    assert dense.config.model.feed_forward.d_ff == 25
    assert forward_flops(dense.config.model, 1) == forward_flops(sparse.config.model, 1)
    assert "d_ff 16 -> 25 in every layer" in dense.notes[0]


def test_shared_experts_and_expert_width_widen_it_too():
    # Experts of width 4 and one shared: 64 + 128 + 128 = 320 against 512, so 832 in all and
    # d_ff = 16 + (832 - 1024) / 64 = 13.
    small = replace(run().model.feed_forward, d_ff=4)
    given = resolved(
        with_moe(run(), expert=small, shared_experts=1), CompareConfig(learning_rates=(1e-3,))
    )
    dense, sparse = arms(given)
    assert dense.config.model.feed_forward.d_ff == 13
    assert forward_flops(dense.config.model, 1) == forward_flops(sparse.config.model, 1)


def test_a_twin_whose_arithmetic_is_off_is_refused_with_the_numbers():
    with pytest.raises(UserError) as error:
        arms(protocol(dense_d_ff=64))
    ours = forward_flops(run().model, 1)
    # 48 units more of 64 FLOPs a token, less the router's 64.
    theirs = ours + (48 * 64 - 64) * 32
    message = str(error.value)
    assert message.startswith("compare.dense_d_ff = 64: must be such that the dense twin's")
    assert f"a row through dense costs {theirs:,} FLOPs, through experts-4 {ours:,}" in message
    assert f"{theirs / ours - 1:+.1%}" in message
    assert "d_ff 17 comes nearest" in message  # the router is worth one unit
    assert "\n" not in message
    assert by_name(protocol(dense_d_ff=17))["dense"].config.model.feed_forward.d_ff == 17


def test_an_expert_count_whose_router_costs_too_much_is_refused():
    # 512 experts: 16 * 512 = 8192 FLOPs a token for the router alone.
    with pytest.raises(UserError, match=r"compare.experts = 512: must be a count whose arithmetic"):
        arms(protocol(experts=(4, 512)))


def test_every_count_is_set_against_the_same_dense_runs():
    given = protocol(experts=(2, 4, 6))
    assert [arm.name for arm in arms(given)] == ["dense", "experts-2", "experts-4", "experts-6"]
    assert [arm.seeds for arm in arms(given)] == [2, 1, 2, 1]
    assert [(b.name, a.name) for b, a in pairs(given)] == [
        ("dense", "experts-2"),
        ("dense", "experts-4"),
        ("dense", "experts-6"),
    ]


def test_wider_has_the_sparse_models_parameters():
    # Three more experts of 2 * 8 * 16 = 256 and the router's 8 * 4: 800. A unit of d_ff: 2 * 2 * 8
    # = 32, so 25 units.
    wider = by_name(protocol(wider=Wider(most=4.0)))["dense-wider"]
    assert wider.config.model.feed_forward.d_ff == 16 + 25
    assert wider.config.model.num_params() == run().model.num_params()
    assert "1.00 times the parameters of experts-4" in wider.notes[0]


def test_wider_stops_at_the_arithmetic_it_may_have():
    given = by_name(protocol(wider=Wider(most=1.01)))
    twin, wider = given["dense"], given["dense-wider"]
    ratio = wider.step_flops / twin.step_flops
    assert 1 < ratio < 1.02
    assert "1.01 times the arithmetic of the twin" in wider.notes[0]


def test_deeper_has_the_factors_arithmetic_as_nearly_as_layers_allow():
    given = by_name(protocol(deeper=Deeper(factor=2.0)))
    twin, deeper = given["dense"].config.model, given["dense-deeper"].config.model
    assert deeper.feed_forward == twin.feed_forward
    head = 2 * 8 * 384 * 32
    # Layers alone double to 4; the head's share asks for more of them.
    layer = (forward_flops(twin, 1) - head) / 2
    assert deeper.num_layers == 2 + round(forward_flops(twin, 1) / layer)


@pytest.mark.parametrize("factor", [1.05, 1.5, 2.0, 3.3])
def test_both_stacks_deepen_in_proportion(factor):
    twin = presets.run("switch_tiny", "span", dense=True).model
    wanted = round(factor * forward_flops(twin, 1))
    deeper = deepened(twin, wanted)
    assert deeper.encoder_layers == deeper.decoder_layers > twin.encoder_layers
    off = abs(forward_flops(deeper, 1) - wanted)
    for layers in (deeper.encoder_layers - 1, deeper.encoder_layers + 1):
        if layers > twin.encoder_layers:
            other = replace(twin, encoder_layers=layers, decoder_layers=layers)
            assert off <= abs(forward_flops(other, 1) - wanted)


def test_weight_decay_makes_two_arms():
    given = by_name(protocol(weight_decay=Decayed(0.2)))
    dense, sparse = given["dense-decay"], given["experts-4-decay"]
    assert dense.config.optimizer.weight_decay == sparse.config.optimizer.weight_decay == 0.2
    assert dense.config.model == given["dense"].config.model
    assert sparse.baselines == ("dense-decay", "dense", "experts-4")
    named = [(b.name, a.name) for b, a in pairs(protocol(weight_decay=Decayed(0.2)))]
    assert ("dense-decay", "experts-4") in named
    assert len(set(named)) == len(named)


def test_weight_decay_needs_an_optimiser_that_has_it():
    config = replace(run(), optimizer=AdafactorConfig(), schedule=InverseSqrt())
    with pytest.raises(UserError, match=r"optimizer.kind = 'adafactor': must be 'adamw'"):
        resolved(config, CompareConfig(weight_decay=Decayed()))
    decayed = replace(run(), optimizer=replace(run().optimizer, weight_decay=0.1))
    with pytest.raises(UserError, match="another value than the run's own"):
        resolved(decayed, CompareConfig(weight_decay=Decayed(0.1)))


def test_the_runs_of_a_protocol():
    given = protocol(experts=(2, 4))
    assert [planned.name for planned in trials(given)] == [
        *("dense-lr0.001-seed0", "experts-2-lr0.001-seed0", "experts-4-lr0.001-seed0"),
        *("dense-lr0.01-seed0", "experts-2-lr0.01-seed0", "experts-4-lr0.01-seed0"),
    ]
    rates = {"dense": 1e-3, "experts-4": 1e-2, "experts-2": 1e-2}
    assert [planned.name for planned in measured(given, rates)] == [
        *("dense-lr0.001-seed1", "experts-2-lr0.01-seed1", "experts-4-lr0.01-seed1"),
        *("dense-lr0.001-seed2", "experts-4-lr0.01-seed2"),
    ]
    assert count_runs(given) == 6 + 5
    dense, two, main = arms(given)
    assert total_flops(given) == 4 * (
        4 * dense.step_flops + 4 * main.step_flops + 3 * two.step_flops
    )


def test_the_batches_of_a_seed_are_those_of_both_arms():
    config = replace(run(), train=replace(run().train, seed=7), data=replace(run().data, seed=70))
    given = resolved(config, CompareConfig(learning_rates=(1e-3,)))
    dense, sparse = (
        planned.config for planned in measured(given, {"dense": 1.0, "experts-4": 2.0})[:2]
    )
    assert dense.data == sparse.data and dense.train == sparse.train
    assert (dense.train.seed, dense.data.seed) == (8, 71)
    assert (dense.optimizer.learning_rate, sparse.optimizer.learning_rate) == (1, 2)


def test_one_rate_is_taken_without_a_trial():
    given = protocol(learning_rates=(3e-3,))
    assert trials(given) == ()
    assert count_runs(given) == 4


def test_others_may_borrow_the_pairs_rates():
    given = protocol(experts=(2, 4), wider=Wider(), weight_decay=Decayed(), tune="pair")
    assert {arm.name: arm.rate_of for arm in arms(given)} == {
        "dense": "dense",
        "experts-4": "experts-4",
        "experts-2": "experts-4",
        "dense-wider": "dense",
        "dense-decay": "dense",
        "experts-4-decay": "experts-4",
    }
    assert {planned.arm.name for planned in trials(given)} == {"dense", "experts-4"}


def test_what_is_left_open_is_filled_in():
    given = resolved(run(), CompareConfig())
    assert given.compare.learning_rates == (5e-4, 1e-3, 2e-3)
    assert given.compare.experts == (4,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": run().model.dense_twin()}, "the model of custom is dense"),
        ({"train": replace(run().train, eval_every=3)}, "train.eval_every = 3: must be at most"),
    ],
)
def test_a_run_that_cannot_be_compared_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        resolved(replace(run(), **change), CompareConfig())


def test_evaluation_with_a_capacity_is_refused():
    with pytest.raises(UserError, match=r"eval_capacity_factor = 2.0: must be none in a"):
        resolved(with_moe(run(), eval_capacity_factor=2.0), CompareConfig())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"learning_rates": (0.0,)}, "compare.learning_rates = 0.0: must be above 0"),
        ({"learning_rates": (1e-3, 1e-3)}, "without repeats"),
        ({"experts": (2,)}, r"compare.experts = \[2\]: must be a list with model.moe.num_experts"),
        ({"experts": (0, 4)}, "compare.experts = 0: must be at least 1"),
        ({"seeds": 0}, "compare.seeds = 0"),
        ({"other_seeds": 3}, r"compare.other_seeds = 3: must be in 1 .. compare.seeds \(2\)"),
        ({"dense_d_ff": 0}, "compare.dense_d_ff = 0"),
    ],
)
def test_values_that_cannot_be(fields, message):
    with pytest.raises(UserError, match=message):
        protocol(**fields)


@pytest.mark.parametrize("made", [lambda: Wider(1.0), lambda: Deeper(1.0), lambda: Decayed(0.0)])
def test_baselines_that_change_nothing(made):
    with pytest.raises(UserError, match="compare"):
        made()


def test_a_protocol_comes_back_from_its_file():
    given = protocol(experts=(2, 4), wider=Wider(3.0), weight_decay=Decayed(), tune="pair")
    assert from_table(io.parse_table(given.toml()), "x") == given
    assert from_table(io.parse_table(protocol().toml()), "x") == protocol()
    with pytest.raises(UserError, match=r"x: no table \[compare\]"):
        from_table(io.to_dict(run()), "x")


def test_the_first_difference_is_named():
    assert difference(protocol(), protocol()) is None
    assert difference(protocol(), protocol(seeds=5)) == "compare.seeds is 2 there, 5 here"
    wider = difference(protocol(), protocol(wider=Wider(3.0)))
    assert wider == "compare.wider.most is absent there, 3.0 here"
    other = replace(protocol(), run=replace(run(), train=replace(run().train, steps=8)))
    assert difference(protocol(), other) == "train.steps is 4 there, 8 here"


def test_an_unknown_baseline_is_named():
    assert baseline_defaults(("wider",)) == {"wider": {}}
    with pytest.raises(UserError, match=r"--baselines = 'wide': must be of wider, deeper"):
        baseline_defaults(("wide",))


def test_a_step_is_three_forward_passes():
    model = presets.run("switch_tiny").model
    assert step_flops(model, 5) == 15 * forward_flops(model, 1)
