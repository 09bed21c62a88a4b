"""What each rank holds: shapes as in the built models, shards by hand, sums over ranks."""

from collections import Counter
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.plan.cases import MODEL, RUN, over
from turnout.config import presets
from turnout.config.model import ModelConfig
from turnout.config.parallel import ParallelPlan, divisors, fsdp_sizes
from turnout.models.build import build
from turnout.plan.weights import Held, Weight, held, sharding, units
from turnout.plan.work import work_of

FAMILIES = (
    *("switch_c", "switch_xxl", "st_moe_32b", "glam_64b_64e", "qwen3_30b_a3b"),
    *("deepseek_moe_16b", "olmoe", "t5_1_1_small", "switch_tiny"),
)


@pytest.mark.parametrize("name", FAMILIES)
def test_shapes_are_those_of_the_model(name: str) -> None:
    model = presets.run(name).model
    counted = _shapes(model)
    built = Counter(tuple(p.shape) for p in build(model, device="meta").parameters())
    assert counted == built
    assert sum(prod(shape) * n for shape, n in counted.items()) == model.num_params()


def _shapes(model: ModelConfig) -> Counter[tuple[int, ...]]:
    found: Counter[tuple[int, ...]] = Counter()
    for unit in units(model):
        for weight in unit.weights:
            found[weight.shape] += unit.repeat
    return found


def test_one_process_holds_everything() -> None:
    # embedding 10 x 8 and last norm 8: 88; dense layer: two norms 16, attention 4 x 64 = 256,
    # network 2 x 128 = 256: 512; sparse layer: 256, norms 16 and router 32; experts 4 x 256 = 1,024
    sizes = {unit.name: unit.size for unit in units(MODEL)}
    assert sizes == {
        "decoder dense layer": 512,
        "decoder dense layer: norms and routers": 16,
        "decoder sparse layer": 256,
        "decoder sparse layer: norms and routers": 48,
        "decoder sparse layer: experts": 1024,
        "root": 88,
    }
    assert work_of(RUN, over(1)).sharding.kept == 1944


def test_four_ranks_by_hand() -> None:
    """Two of experts, two of data; dense weights in four shards, each rank's experts in two."""
    found = sharding(units(MODEL), over(4, expert=2))
    kept = {each.unit.name: sum(part.kept for part in each.parts) for each in found.gathered}
    assert kept == {
        "decoder dense layer": 128,  # 512 / 4: all first dimensions divide by 4
        "decoder dense layer: norms and routers": 4,
        "decoder sparse layer": 64,  # 256 / 4
        "decoder sparse layer: norms and routers": 12,
        "decoder sparse layer: experts": 256,  # 2 of 4 experts, one of these on each rank
        "root": 26,  # 10 rows of the embedding in 3, 3, 3, 1: 3 x 8, and 2 of the norm
    }
    assert found.kept == 490
    assert found.around == 168  # four shards of 26 + 4 + 12
    assert found.layer == 512
    # matrices of both layers, without norms and router: 512 + 256, and two experts 512
    assert found.matrices == 1280
    assert found.experts == 512


def test_padding_of_shards_that_do_not_come_out_even() -> None:
    """2,080 rows over 2,048 ranks are two a rank, so that 4,096 travel."""
    part = held(Weight("w", (2080, 3)), ParallelPlan(2048).over(2048))
    assert (part.kept, part.whole) == (6, 4096 * 3)
    assert [part.rows_of(shard) for shard in (0, 1039, 1040, 2047)] == [2, 2, 0, 0]


def test_padding_is_gathered_and_not_computed_with() -> None:
    """Four experts in eight shards, each as large as an expert: twice 1,024 entries travel."""
    found = sharding(units(MODEL), over(8))
    (sparse,) = (each for each in found.layers if each.unit.name == "decoder sparse layer")
    assert sparse.whole == 256 + 2 * 1024
    assert (found.matrices, found.experts) == (512 + 256 + 1024, 1024)


def test_tensor_ranks_have_slices() -> None:
    """Heads of attention, hidden width of networks and experts; norms and embeddings whole."""
    found = sharding(units(MODEL), over(2, tensor=2))
    kept = {each.unit.name: sum(part.kept for part in each.parts) for each in found.gathered}
    # 128 + 128; 128 with the experts 512, which no axis of their own shares out
    layers = {"decoder dense layer": 256, "decoder sparse layer": 640}
    wide = {
        f"{layer}: norms and routers": size for layer, size in zip(layers, (16, 48), strict=True)
    }
    assert kept == {**layers, **wide, "root": 88}


@given(rows=st.integers(1, 300), rest=st.integers(1, 5), shards=st.integers(1, 400))
def test_rows_of_all_shards_add_up(rows: int, rest: int, shards: int) -> None:
    part = Held(Weight("w", (rows, rest)), (rows, rest), 0, shards)
    assert sum(part.rows_of(shard) for shard in range(shards)) == rows
    assert max(part.rows_of(shard) for shard in range(shards)) * rest == part.kept


@given(
    data=st.sampled_from((1, 2, 4, 8)),
    expert=st.sampled_from((1, 2, 4)),
    tensor=st.sampled_from((1, 2)),
)
def test_totals_add_up_over_ranks_and_more_shards_hold_no_more(
    data: int, expert: int, tensor: int
) -> None:
    last = None
    for fsdp in fsdp_sizes(data, expert):
        plan = ParallelPlan(data, fsdp, expert, tensor)
        total = 0.0
        for unit in units(MODEL):
            for weight in unit.weights:
                part = held(weight, plan)
                apart = weight.role == "experts" and expert > 1
                rest = part.kept // part.shape[part.dim]
                rows = sum(part.rows_of(shard) for shard in range(part.shards))
                ways = (expert if apart else 1) * (tensor if weight.split is not None else 1)
                assert rows * rest * ways == weight.size
                total += weight.size * unit.repeat
        assert total == MODEL.num_params()
        kept = sharding(units(MODEL), plan).kept
        assert last is None or kept <= last
        last = kept


def test_every_valid_number_of_shards_is_looked_at() -> None:
    assert fsdp_sizes(4, 2) == [1, 2, 4, 8]
    assert fsdp_sizes(3, 4) == [1, 2, 4, 12]
    assert divisors(12) == [1, 2, 3, 4, 6, 12]
