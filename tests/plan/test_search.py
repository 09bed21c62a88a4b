"""Layouts: all valid ones and no other, the fewest parts that fit, and what would help."""

from dataclasses import replace

import pytest

from tests.plan.cases import DEVICE, RUN, trained
from turnout.config import presets
from turnout.config.errors import ConfigError, UserError
from turnout.config.layout import over_ranks
from turnout.config.parallel import ParallelPlan
from turnout.plan.hardware import DEVICES, Assumptions
from turnout.plan.remedies import remedies
from turnout.plan.search import Question, choose, layouts, plans, smallest

ASSUMED = Assumptions(reserve=0.0)
ROOMY = replace(DEVICE, memory=1e12)


def question(**changes: object) -> Question:
    return Question(**{"config": RUN, "ranks": 4, "device": ROOMY, "assumed": ASSUMED, **changes})  # type: ignore[arg-type]


def test_all_layouts_of_four_ranks() -> None:
    """Four experts, two heads: expert 1, 2, 4 and tensor 1, 2; every number of shards."""
    found = {(p.tensor, p.expert, p.data, p.sequence, p.fsdp) for p in plans(question())}
    whole = {(1, expert, 4 // expert, False, fsdp) for expert in (1, 2, 4) for fsdp in (1, 2, 4)}
    halves = {
        (2, expert, 2 // expert, sequence, fsdp)
        for expert in (1, 2)
        for sequence in (False, True)
        for fsdp in (1, 2)
    }
    assert found == whole | halves


def test_every_layout_found_is_one_that_training_takes() -> None:
    for layout in layouts(question()):
        assert over_ranks(layout.config, 4) == layout.plan


def test_the_fastest_that_fits_comes_first() -> None:
    found = layouts(question())
    times = [layout.time.step for layout in found]
    assert times == sorted(times)
    assert all(layout.fits for layout in found)
    peaks = sorted(layout.expected.peak for layout in found)
    tight = replace(ROOMY, memory=float(peaks[0]))
    some = layouts(question(device=tight))
    assert [layout.fits for layout in some] == sorted((each.fits for each in some), reverse=True)
    assert some[0].fits
    assert choose(question(device=tight)).fits


def test_no_more_parts_than_it_takes() -> None:
    asked = question(config=trained(batch_rows=64), fixed=frozenset({"train.recompute"}))
    one = layouts(asked)[0]
    assert one.config.train.micro_batches == 1
    room = replace(ROOMY, memory=one.expected.peak * 0.8)
    cut = next(each for each in layouts(replace(asked, device=room)) if each.plan == one.plan)
    assert cut.fits and cut.config.train.micro_batches > 1
    train = replace(cut.config.train, micro_batches=cut.config.train.micro_batches // 2)
    fewer = replace(asked, device=room, config=replace(asked.config, train=train))
    fewer = replace(fewer, fixed=fewer.fixed | {"train.micro_batches"})
    assert not next(each for each in layouts(fewer) if each.plan == one.plan).fits


def test_sizes_that_are_given_are_kept() -> None:
    config = replace(RUN, parallel=ParallelPlan(expert=2, fsdp=1))
    names = frozenset({"parallel.expert", "parallel.fsdp"})
    found = layouts(question(config=config, fixed=names))
    assert {(layout.plan.expert, layout.plan.fsdp) for layout in found} == {(2, 1)}
    assert len({layout.plan.tensor for layout in found}) == 2


def test_rows_that_do_not_come_out_even_are_refused_with_what_would() -> None:
    with pytest.raises(ConfigError, match=r"train\.batch_rows = 8: must be a multiple of 64"):
        layouts(question(ranks=64))


def test_devices_that_cannot_be() -> None:
    for ranks in (0, -1, 1 << 21):
        with pytest.raises(ConfigError, match=r"devices = "):
            question(ranks=ranks)


def test_what_would_help_is_tried_before_it_is_said() -> None:
    """30.5 B parameters with gradients and AdamW are 16 bytes each, 489 GB: not on two of 80."""
    run = presets.run("qwen3_30b_a3b")
    asked = Question(run, 2, DEVICES["h100"], Assumptions())
    assert not smallest(asked).fits
    with pytest.raises(UserError, match=r"no layout of qwen3_30b_a3b fits on 2 x h100"):
        choose(asked)
    said = {remedy.options[0]: remedy for remedy in remedies(asked)}
    assert said["--devices"].options[1] in {"8", "16"}
    more = replace(asked, ranks=int(said["--devices"].options[1]))
    assert smallest(more).fits
    assert not smallest(replace(asked, ranks=more.ranks // 2)).fits


def test_more_devices_than_rows_are_offered_with_what_was_tried() -> None:
    """Eight devices with a row each have one micro-batch, whatever was asked for before."""
    few = trained(batch_rows=2, eval_rows=2).train
    run = replace(presets.run("qwen3_30b_a3b"), train=few)
    for fixed, options in (
        (frozenset[str](), ()),
        (frozenset({"train.micro_batches"}), ("--train.micro-batches", "1")),
    ):
        said = remedies(Question(run, 2, DEVICES["h100"], Assumptions(), fixed))
        (more,) = (each for each in said if each.options[0] == "--devices")
        assert more.options == ("--devices", "8", "--train.batch-rows", "8", *options)


def test_every_device_says_where_its_figures_are_from() -> None:
    for device in DEVICES.values():
        assert len(device.source) > 40
        assert device.bfloat16 >= device.float32
        assert device.link >= device.network or device.exchange is not None
