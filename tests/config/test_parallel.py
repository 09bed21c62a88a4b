"""Plans of ranks: what follows from them, and which number is wrong where they do not fit."""

from dataclasses import replace

import pytest

from turnout.config import io, presets
from turnout.config.errors import ConfigError
from turnout.config.layout import over_ranks
from turnout.config.moe import RowsGroup
from turnout.config.parallel import ParallelPlan
from turnout.config.train import RunConfig


def demo(plan: ParallelPlan, **train: int) -> RunConfig:
    config = presets.run("switch_demo")
    return replace(config, parallel=plan, train=replace(config.train, **train))


@pytest.mark.parametrize(
    ("ranks", "plan", "expected"),
    [
        # data, batch ranks, dense shards and copies, shards and copies of a rank's experts
        (1, ParallelPlan(), (1, 1, 1, 1, 1, 1)),
        (4, ParallelPlan(expert=2), (2, 4, 4, 1, 2, 1)),
        (4, ParallelPlan(expert=2, fsdp=1), (2, 4, 1, 4, 1, 2)),
        (4, ParallelPlan(expert=2, fsdp=2), (2, 4, 2, 2, 1, 2)),
        (4, ParallelPlan(expert=4), (1, 4, 4, 1, 1, 1)),
        (8, ParallelPlan(expert=2, tensor=2), (2, 4, 4, 1, 2, 1)),
        (8, ParallelPlan(expert=2, fsdp=4), (4, 8, 4, 2, 2, 2)),
    ],
)
def test_sizes_that_follow_from_the_axes(
    ranks: int, plan: ParallelPlan, expected: tuple[int, ...]
) -> None:
    full = plan.over(ranks)
    assert full.ranks == ranks
    assert expected == (
        full.data,
        full.batch_ranks,
        full.dense_shards,
        full.dense_replicas,
        full.expert_fsdp,
        full.expert_replicas,
    )


@pytest.mark.parametrize(
    ("ranks", "plan", "message"),
    [
        (4, ParallelPlan(expert=3), "parallel.expert = 3: must be one of 1, 2, 4 with 4 ranks; "),
        (6, ParallelPlan(tensor=4), "parallel.tensor = 4: must be one of 1, 2, 3, 6 with 6 ranks"),
        (
            6,
            ParallelPlan(expert=4, tensor=2),
            "parallel.expert = 4: must be one of 1, 3 with 6 ranks and parallel.tensor = 2; or "
            "start 8 of them",
        ),
        (8, ParallelPlan(fsdp=3), "parallel.fsdp = 3: must be one of 1, 2, 4, 8 with 8 batch"),
        (
            8,
            ParallelPlan(data=4, expert=4),
            "parallel.data = 4: must be 2 with 8 ranks, parallel.expert = 4 and parallel.tensor "
            "= 1; leave it out, or start 16 ranks",
        ),
        (16, ParallelPlan(expert=16), "parallel.expert = 16: must be one of 1, 2, 4, 8, which"),
        (5, ParallelPlan(), "train.batch_rows = 16: must be a multiple of 5"),
    ],
)
def test_the_error_names_the_wrong_number_and_the_valid_ones(
    ranks: int, plan: ParallelPlan, message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        over_ranks(demo(plan), ranks)
    assert str(error.value).startswith(message)


def test_micro_batches_leave_every_rank_whole_groups() -> None:
    config = demo(ParallelPlan(), batch_rows=16, micro_batches=2)
    assert config.model.moe is not None
    model = replace(config.model, moe=replace(config.model.moe, group=RowsGroup(4)))
    over_ranks(replace(config, model=model), 2)
    with pytest.raises(ConfigError, match="micro_batches = 2: must be one of 1; 8 rows"):
        over_ranks(replace(config, model=model), 4)


def test_a_dense_model_has_no_experts_to_share_out() -> None:
    config = presets.run("switch_demo", dense=True)
    with pytest.raises(ConfigError, match="1 where the model has no sparse layer"):
        over_ranks(replace(config, parallel=ParallelPlan(expert=2)), 2)


def test_sequence_needs_a_tensor_axis() -> None:
    with pytest.raises(ConfigError, match=r"parallel\.sequence = True: must be false"):
        ParallelPlan(sequence=True)


def test_a_dotted_option_is_all_that_a_user_types() -> None:
    config = io.override(presets.run("switch_demo"), {"parallel.expert": "2"})
    assert config.parallel == ParallelPlan(expert=2)
    again = io.parse_toml(io.dump_toml(config))
    assert again.parallel == config.parallel
