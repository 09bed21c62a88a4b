"""Layers of other libraries compute what ours does, and where they do not nothing is timed."""

import pytest
import torch
from torch import nn

from turnout.bench import layer as suite
from turnout.bench.equal import UnequalError, difference
from turnout.bench.layer import Case, LayerSuite, Routed, against_loop, against_ours, sparse_layer
from turnout.bench.machine import Probe
from turnout.bench.options import SUITES
from turnout.bench.peers import installed as peers
from turnout.bench.peers.base import capacity_factor, table_bytes
from turnout.bench.peers.mixture_of_experts import MixtureOfExpertsPeer
from turnout.bench.peers.st_moe import StMoePeer
from turnout.bench.peers.transformers_switch import SwitchPeer
from turnout.bench.suite import run

PROBE = Probe(square=16, size=1 << 10)
PEERS = {
    "switch": (SwitchPeer(), 1),
    "st-moe, top-2": (StMoePeer(), 2),
    "st-moe, top-3": (StMoePeer(), 3),
    "mixture-of-experts": (MixtureOfExpertsPeer(), 2),
}


def parts(k, dtype=torch.float32):
    torch.manual_seed(0)
    case = Case(width=16, experts=4, tokens=24, k=k, dtype=dtype, mode="forward+backward")
    layer = sparse_layer(case)
    x = torch.randn(case.shape).to(dtype)
    return case, layer, x, Routed.of(layer, x, case)


def foreign(name, dtype):
    peer, k = PEERS[name]
    case, layer, x, routed = parts(k, dtype)
    theirs = suite._Cast(peer.layer(layer, routed.capacity, case.shape[1]), dtype)
    return theirs, layer, x, routed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", PEERS)
def test_they_compute_the_same(name, dtype):
    assert against_ours(name, *foreign(name, dtype)) < 3e-2


@pytest.mark.parametrize("name", PEERS)
def test_a_changed_weight_is_found(name):
    theirs, layer, x, routed = foreign(name, torch.float32)
    with torch.no_grad():
        max(theirs.parameters(), key=lambda each: each.numel()).view(-1)[0] += 0.1
    with pytest.raises(UnequalError, match=f"{name}, output: differs from turnout by"):
        against_ours(name, theirs, layer, x, routed)


@pytest.mark.parametrize("name", ["st-moe, top-2", "mixture-of-experts"])
def test_one_slot_less_drops_a_token(name):
    peer, k = PEERS[name]
    case, layer, x, routed = parts(k)
    theirs = peer.layer(layer, routed.capacity - 1, case.shape[1])
    with pytest.raises(UnequalError):
        against_ours(name, theirs, layer, x, routed)


def test_another_gradient_is_found():
    """By itself it lets gradients through its dispatch table: the outputs are the same."""
    theirs, layer, x, routed = foreign("st-moe, top-2", torch.float32)
    theirs.inner.inner.gate.straight_through_dispatch_tensor = True
    with pytest.raises(UnequalError, match="st-moe, gradient: differs"):
        against_ours("st-moe", theirs, layer, x, routed)


def test_the_loop_finds_a_changed_layer(monkeypatch):
    _, layer, x, routed = parts(2)
    assert against_loop(layer, x, routed) < 1e-5
    before = layer.experts.forward
    monkeypatch.setattr(layer.experts, "forward", lambda rows, ends: 1.01 * before(rows, ends))
    with pytest.raises(UnequalError, match="a loop over its experts"):
        against_loop(layer, x, routed)


def test_differences_by_hand():
    one, other = torch.tensor([1.0, 4.0]), torch.tensor([1.5, 4.0])
    assert difference("x", other, one, 0.2) == 0.125  # 0.5 over 4
    with pytest.raises(UnequalError, match=r"by 0.12 of the largest entry, at most 0.1 "):
        difference("x", other, one, 0.1)
    with pytest.raises(UnequalError):
        difference("x", torch.tensor([float("nan"), 4.0]), one, 0.2)
    with pytest.raises(UnequalError, match=r"has shape \[1\], not \[2\]"):
        difference("x", one[:1], one, 0.2)


def test_tokens_that_a_rounding_decides_are_left_out():
    # eps of bfloat16 is 2^-7: choices must be 2 * 2^-7 * (1 + 1) = 0.03125 apart
    logits = torch.tensor([[1.0, 0.98, 0.0], [1.0, 0.96, 0.0]])
    assert suite._settled(logits, 1, torch.bfloat16).tolist() == [False, True]
    assert suite._settled(logits, 1, torch.float32).tolist() == [True, True]
    assert suite._settled(logits, 3, torch.bfloat16).tolist() == [True, True]


def test_shapes_and_arithmetic_by_hand():
    case = Case(width=16, experts=8, tokens=128, k=2, dtype=torch.float32, mode="forward")
    # 8 experts of 128 rows are 1,024 assignments of 512 tokens, two rows of 256
    assert case.shape == (2, 256, 16)
    # two products a choice, of 16 by 64, two operations each: 512 * 2 * 2 * 2 * 16 * 64
    assert case.flops == 4_194_304
    odd = Case(width=16, experts=3, tokens=100, k=1, dtype=torch.float32, mode="forward")
    assert odd.shape == (2, 150, 16)


def test_capacity_and_tables_by_hand():
    # slots are int(row * factor / experts): 256 * (5.5 * 8 / 256) / 8 = 5.5, which is 5
    assert int(256 * capacity_factor(5, 8, 256) / 8) == 5
    assert table_bytes(tokens=10, experts=4, capacity=3, tables=2) == 960


def measured(**given):
    options = SUITES["layer"].options(
        {
            "experts": (4,),
            "tokens": (8,),
            "width": 16,
            "repeats": 2,
            "dtypes": ("float32",),
            **given,
        }
    )
    return run(LayerSuite((StMoePeer(), MixtureOfExpertsPeer())), options, probe=PROBE)


def test_a_contest_is_measured():
    (row,) = measured(k=(2,)).rows
    ways = ["dense", "turnout", "experts alone", "st-moe-pytorch", "mixture-of-experts"]
    assert list(row.seconds) == ways
    assert all(len(each) == 2 for each in row.seconds.values())
    assert row.facts["E"] == 4
    assert row.of_peak("turnout") > 0
    assert row.differences.keys() == {"turnout", "st-moe-pytorch", "mixture-of-experts"}


def test_without_room_a_peer_is_left_out_with_the_reason():
    (row,) = measured(k=(2,), room=1e-9).rows
    assert "need" in row.left_out["st-moe-pytorch"]
    assert "--room 1e-09" in row.left_out["mixture-of-experts"]


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    (row,) = measured(k=(2,)).rows
    assert row.left_out == dict.fromkeys(
        ("st-moe-pytorch", "mixture-of-experts"), "not installed; pip install 'turnout[bench]'"
    )
    assert peers.missing_line(["st-moe-pytorch", "transformers"]) == (
        "not installed, left out: st-moe-pytorch, transformers; pip install 'turnout[bench]'"
    )


def test_an_unequal_pair_is_an_error_and_no_row(monkeypatch):
    before = StMoePeer.layer

    def wrong(self, ours, capacity, row):
        theirs = before(self, ours, capacity, row)
        nn.init.zeros_(next(theirs.inner.experts.parameters()))
        return theirs

    monkeypatch.setattr(StMoePeer, "layer", wrong)
    with pytest.raises(UnequalError, match="st-moe-pytorch, output"):
        measured(k=(2,))
