"""The other suites at tiny sizes: their models by hand, their checks shown to fail."""

import dataclasses
import itertools
from types import SimpleNamespace

import pytest
import torch

from tests.bench.cases import row
from turnout.bench import generation, scaling, step
from turnout.bench.equal import UnequalError
from turnout.bench.experts import ExpertsSuite, check, compared
from turnout.bench.generation import Distinct, Floor, GenerationSuite, agreement, step_bytes
from turnout.bench.machine import Probe, Rates, facts
from turnout.bench.memory import beyond, peak
from turnout.bench.models import Size
from turnout.bench.options import DECODE, SUITES
from turnout.bench.peers import transformers_switch
from turnout.bench.peers.transformers_moe import Done, Work, experts_norm, model
from turnout.bench.peers.transformers_moe import step as their_step
from turnout.bench.scaling import ScalingSuite, predicted, weight_bytes
from turnout.bench.step import StepSuite
from turnout.bench.suite import run
from turnout.bench.timing import Part, Times
from turnout.config.errors import UserError
from turnout.generate import GenerateOptions
from turnout.kernels.grouped import GROUPED

PROBE = Probe(square=16, size=1 << 10)
SIZE = Size(width=16, layers=2, vocabulary=40, experts=3)
SMALL = {"experts": (3,), "width": 16, "repeats": 2, "dtypes": ("float32",)}


def options(name, **given):
    return SUITES[name].options({**SMALL, **given})


def test_the_probe_by_hand():
    assert Probe(square=10, size=8).flops == 2000
    multiply, read = Probe(square=4, size=64).works(torch.bfloat16)
    assert multiply().dtype == torch.bfloat16
    assert float(read()) == 16.0  # 64 bytes are 16 ones


def test_the_machine_has_no_name():
    found = facts(("no-such-thing", "torch"), kept=True)
    assert found["freed_memory"] == "kept"
    assert "no-such-thing" not in found["versions"]
    assert found["versions"]["torch"]


# Generation


def test_bytes_of_a_step_by_hand():
    # width 16, one head of 16: a projection is 256, six a layer, two layers: 3,072; a network is
    # 2 * 16 * 64 = 2,048, one dense, one sparse of which 1.5 experts are read: 5,120; the head is
    # 40 * 16 = 640; 8,832 elements of 2 bytes
    assert step_bytes(SIZE.config(), 1.5, 2) == 17_664
    assert step_bytes(SIZE.twin.config(), 0.0, 4) == 4 * (3072 + 2 * 2048 + 640)


def test_the_floor_by_hand():
    # 600 bytes at 200 a second and 50 FLOPs at 100
    assert Floor(600.0, 50).seconds(Rates(peak=100.0, bandwidth=200.0)) == 3.5
    times = Times({"turnout": [7.0], "transformers, static cache": [21.0]})
    same = {"turnout": {"same tokens": "1 of 1"}, "transformers, static cache": {}}
    cells = generation._cells(times, Rates(100.0, 200.0), Floor(600.0, 50), same, 10)
    assert cells["turnout"] == {
        "same tokens": "1 of 1",
        "floor, ms": 350.0,
        "over the floor": 2.0,
    }
    # a third of 21 seconds is twice the floor: a target of 3 is above it
    assert cells["transformers, static cache"]["a third of it over the floor"] == 2.0


def test_the_floor_of_a_mode_is_of_what_it_times():
    """Of 5 tokens all have 5 steps and the encoder, decoding 4 steps and no encoder."""
    config = SIZE.config()
    whole, decode, prefill = (
        Floor.of(config, generation.Case(SIZE, torch.float32, 2, new, mode, False), 1.0)
        for new, mode in ((5, "generate"), (5, "decode"), (1, "prefill"))
    )
    assert whole.size == 5 * prefill.size and decode.size == 4 * prefill.size
    assert whole.flops == prefill.flops > 0 and decode.flops == 0


def test_distinct_experts_are_counted():
    made = SIZE.model(torch.float32).eval()
    watched = Distinct.of(made)
    router = made.decoder.blocks[1].feed_forward.moe.router
    assigned = dataclasses.make_dataclass("A", ["expert"])
    for hook in router._forward_hooks.values():
        hook(router, (), (assigned(torch.tensor([0, 2, 2])), None))
        hook(router, (), (assigned(torch.tensor([1, 1, 1])), None))
    assert watched.mean == 1.5
    watched.close()
    assert not router._forward_hooks


def test_tokens_may_part_where_rounding_parts_them():
    expected = [[1, 2, 3], [1, 2, 3]]
    found = [[1, 2, 3], [1, 0, 3]]

    def logits(row, written):
        assert (row, written) == (1, [1])
        return torch.tensor([0.95, 0.0, 1.0])

    same, lead = agreement("ours", found, expected, logits, 0.1)
    assert same == 1
    assert lead == pytest.approx(0.05)
    with pytest.raises(UnequalError, match=r"row 1, token 1: 0 is 0.05 below the best"):
        agreement("ours", found, expected, logits, 0.01)


def test_generation_is_measured_against_both_caches():
    given = options("generation", rows=(2,), layers=2, vocabulary=40, new=3)
    prefill, decode, whole = run(GenerationSuite(compiled=False), given, probe=PROBE).rows
    ways = ["turnout", "dense twin", "transformers, static cache", "transformers, dynamic cache"]
    assert list(prefill.seconds) == list(decode.seconds) == list(whole.seconds) == ways
    assert (prefill.parts, decode.parts, whole.parts) == (1, 2, 3)
    assert decode.cells["turnout"]["same tokens"] == "2 of 2"
    assert decode.bases == ("turnout", "dense twin")


def test_steps_are_timed_from_the_first_token_to_the_last(monkeypatch):
    """By a clock that ticks when it is read: 5 new tokens are 4 steps apart, ours and theirs."""
    model = SIZE.model(torch.float32).eval()
    theirs = transformers_switch.like(SIZE, model)
    for module in (generation, transformers_switch):
        clock = SimpleNamespace(perf_counter=itertools.count().__next__)
        monkeypatch.setattr(module, "time", clock)
    ours = generation._ours(model, [[3, 4], [5, 6]], GenerateOptions(5), DECODE)
    assert ours() == Part(4)
    for cache in transformers_switch.CACHES:
        ids = torch.tensor([[3, 4], [5, 6]])
        assert transformers_switch.steps(theirs, ids, 5, cache) == Part(4)


def test_another_weight_gives_other_tokens(monkeypatch):
    before = transformers_switch.like

    def wrong(size, made):
        theirs = before(size, made)
        with torch.no_grad():
            theirs.shared.weight[5] += 3.0
        return theirs

    monkeypatch.setattr(transformers_switch, "like", wrong)
    given = options("generation", rows=(2,), layers=2, vocabulary=40, new=3, modes=("decode",))
    with pytest.raises(UnequalError, match="nothing was timed"):
        run(GenerationSuite(compiled=False), given, probe=PROBE)


# Steps


@pytest.mark.parametrize("size", [SIZE, SIZE.twin])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_steps_have_the_losses_of_transformers(size, dtype):
    made = size.model(dtype)
    theirs = step.their_step(transformers_switch.like(size, made), 40, 2, dtype)
    assert step.compare(step.our_step(made, 2), theirs, dtype) < 2e-2


def test_a_step_from_another_weight_is_found():
    made = SIZE.model(torch.float32)
    other = transformers_switch.like(SIZE, made)
    with torch.no_grad():
        other.shared.weight[:20] += 1.0
    theirs = step.their_step(other, 40, 2, torch.float32)
    with pytest.raises(UnequalError, match="step 1: the losses are"):
        step.compare(step.our_step(made, 2), theirs, torch.float32)


def test_the_second_step_is_compared_behind_an_update():
    losses = iter([1.0, 1.0, 2.0, 2.01])
    with pytest.raises(UnequalError, match=r"step 2: the losses are 2.0 and 2.01"):
        step.compare(lambda: next(losses), lambda: next(losses), torch.float32)


def test_steps_are_measured_with_their_memory():
    dense, sparse = run(
        StepSuite(), options("step", rows=(1,), layers=2, vocabulary=40), probe=PROBE
    ).rows
    assert dense.facts["E"] == "dense"
    assert list(sparse.seconds) == ["turnout", "transformers", "dense twin"]
    assert sparse.cells["turnout"]["activations, MB"] > 0
    assert sparse.flops["turnout"] > sparse.flops["dense twin"]  # by the router


def test_the_peak_of_a_record_by_hand():
    # 100 and 50 are alive together, then 50 and 70; what was there before is no loss when it goes
    events = [(1, 100), (2, 50), (9, -30), (1, -100), (1, 70), (1, -70)]
    assert peak(events, {}) == 150
    # the 70 are a gradient: 100 and 50 stay the most; were the 50 one, 100 would be
    assert peak(events, {1: 70}) == 150
    assert peak(events, {2: 50}) == 100


def test_memory_of_a_step_by_hand():
    weight = torch.randn(100, 50, requires_grad=True)
    x = torch.randn(10, 100)

    def work():
        weight.grad = None
        (x @ weight).relu().sum().backward()

    # When the gradient of relu is made there are: the output of relu and that gradient, 10 * 50
    # float32 each, the sum, and the one it begins with
    assert beyond(work, [weight]) == 2 * 2000 + 4 + 4


# Experts


@pytest.mark.parametrize(("family", "experts"), [("Mixtral", 8), ("OLMoE", 64), ("Qwen3-MoE", 9)])
def test_the_implementations_agree(family, experts):
    from turnout.integrations.transformers import use

    use()
    work = Work(family, experts, 256, 64, 1, "float32", backward=True, threads=1)
    found = {}
    for name in ("turnout", "eager", "grouped_mm"):
        made = model(work)
        made.set_experts_implementation(name)
        found[name] = their_step(made, work, 0)
    assert max(compared(found, "float32").values()) < 1e-4
    assert found["turnout"].norm > 0


def test_another_gradient_is_found():
    found = {"turnout": Done(2.0, 1.0), "eager": Done(2.0, 1.1)}
    with pytest.raises(UnequalError, match=r"eager: the gradients' norm is 1.1, ours 1.0"):
        compared(found, "float32")
    with pytest.raises(UnequalError, match=r"eager: the loss is 2.1, ours 2.0"):
        compared({**found, "eager": Done(2.1, 1.0)}, "bfloat16")


def test_the_norm_is_that_of_the_experts():
    work = Work("Mixtral", 8, 256, 16, 1, "float32", backward=True, threads=1)
    made = model(work)
    their_step(made, work, 1)
    before = experts_norm(made)
    made.lm_head.weight.grad += 1.0
    assert experts_norm(made) == before


def test_what_batched_mm_copies_by_hand():
    # Mixtral's experts are 3.5 times as wide: 56; three matrices of 16 by 56 for 2 choices of 256
    # tokens, 4 bytes each
    assert Work("Mixtral", 8, 256, 16, 1, "float32", True, 1).copied == 256 * 2 * 3 * 16 * 56 * 4
    assert Work("Mixtral", 8, 256, 16, 1, "bfloat16", True, 1).copied == 256 * 2 * 3 * 16 * 56 * 2


@pytest.mark.slow
def test_processes_take_turns():
    given = options("experts", experts=(8,), tokens=(256,), width=32, room=1e-9)
    rows = run(ExpertsSuite(), given, probe=PROBE).rows
    assert [row.facts["model"] for row in rows] == ["Mixtral", "OLMoE", "Qwen3-MoE"]
    found = rows[0]
    assert list(found.seconds) == ["turnout", "eager", "grouped_mm"]
    assert "copies" in found.left_out["batched_mm"]
    assert found.cells["turnout"]["best of theirs"].split(",")[0] in ("eager", "grouped_mm")


def test_families_and_rows_are_checked():
    with pytest.raises(UserError, match=r"--experts 3: must be at least 8, those of a token"):
        check(options("experts"))
    with pytest.raises(UserError, match=r"--tokens 100: must be a multiple of 256"):
        check(options("experts", experts=(8,), tokens=(100,)))


# Scaling


def test_traffic_of_weights_by_hand(monkeypatch):
    # two matrices of 16 by 64 an expert; read forward and backward, gradient written: 3 * 4 bytes
    assert weight_bytes(2, 16, torch.float32) == 2 * 2 * 1024 * 12
    # read and cast, 4 + 2; read twice in bfloat16, 2 + 2; gradient written, 4
    assert weight_bytes(1, 16, torch.bfloat16) == 2 * 1024 * 14
    monkeypatch.setattr(GROUPED, "preferred", frozenset({torch.bfloat16}))
    assert weight_bytes(1, 16, torch.bfloat16) == 2 * 1024 * 12  # read as they are
    # 0.5 s, and 300 bytes more at 100 a second
    assert predicted(0.5, 300, 100.0) == 3.5


def test_scaling_cells_by_hand():
    times = Times({"8": [1.0], "16": [3.0]})
    cells = scaling._cells(
        times, Rates(1.0, 50.0), {"8": 100, "16": 150}, {"8": 10_000_000, "16": 11_000_000}
    )
    assert cells["16"]["predicted, ms"] == 2000.0  # 1 s and 50 bytes at 50 a second
    assert cells["16"]["over predicted"] == 1.5
    assert cells["16"]["of the first"] == 1.1


def test_memory_does_not_grow_with_the_experts():
    given = options("scaling", experts=(2, 8), tokens=(256,))
    (found,) = run(ScalingSuite(), given, probe=PROBE).rows
    assert list(found.seconds) == ["2 experts", "8 experts"]
    # logits and probabilities of six more experts are all that is added, 6 KB each; the weights of
    # six more experts would be 49 KB, and their gradients as much
    grown = (
        found.cells["8 experts"]["activations, MB"] - found.cells["2 experts"]["activations, MB"]
    )
    assert grown < 0.049


def test_a_row_without_arithmetic_has_no_share():
    assert row(flops={}).of_peak("turnout") is None
