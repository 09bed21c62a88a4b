"""Several ranks that train a part of a model, adapters beside it, or a student: the run of one
process."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.distributed import training
from tests.distributed.harness import Pool
from turnout.checkpoint import folders
from turnout.checkpoint.read import load
from turnout.config.distillation import DistillationConfig
from turnout.config.lora import LoraConfig
from turnout.config.optimizers import AdafactorConfig, AdamWConfig, OptimizerConfig
from turnout.config.parallel import ParallelPlan
from turnout.config.presets import dense_twin
from turnout.config.train import RunConfig
from turnout.convert.native import open_native
from turnout.train.header import run_header
from turnout.train.session import open_session
from turnout.train.trainer import Trainer

Ranks = Callable[[int], Pool]
P = ParallelPlan
PLANS = {
    2: (P(), P(fsdp=1), P(expert=2), P(tensor=2), P(tensor=2, sequence=True)),
    4: (P(expert=2), P(expert=4), P(expert=2, tensor=2), P(expert=2, tensor=2, sequence=True)),
}
SIZES = [2, pytest.param(4, marks=pytest.mark.slow)]
# Experts 1 and 2 lie on different ranks where two share out four.
WORDS = (("router",), ("experts",), ("*.experts.*[1,2]", "attention"), ("decoder.blocks.1.*",))
ALL = LoraConfig(rank=4, alpha=8.0, targets=("all",))
OPTIMIZERS: tuple[OptimizerConfig, ...] = (
    AdamWConfig(epsilon=1e-3),  # above what rounding leaves of a gradient
    AdafactorConfig(learning_rate=0.01, min_factored=4, epsilon1=1e-8),
)


def same_runs(ranks: Ranks, size: int, run: RunConfig, place: Path) -> None:
    """One process against every plan of so many ranks."""
    rows = replace(run.train, micro_batches=1) if size > 2 else run.train  # one for each rank
    run = replace(run, train=replace(rows, steps=3, average=0.0))
    for number, plan in enumerate(PLANS[size]):
        many = place / f"many-{number}"
        job = (replace(run, parallel=plan), many, str(many))
        found = ranks(size).run(training.train, *job)
        training.assert_same(run, place / f"one-{number}", found, many)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("words", WORDS, ids=str)
def test_a_part_of_the_weights(
    ranks: Ranks, plain_run: RunConfig, tmp_path: Path, words: tuple[str, ...], size: int
) -> None:
    train = replace(plain_run.train, trained=words)
    same_runs(ranks, size, replace(plain_run, optimizer=OPTIMIZERS[0], train=train), tmp_path)


def test_experts_that_hold_still_keep_their_bits(
    ranks: Ranks, plain_run: RunConfig, tmp_path: Path
) -> None:
    train = replace(plain_run.train, trained=("*.experts.*[1,2]",), steps=3)
    run = replace(plain_run, optimizer=OPTIMIZERS[0], train=train)
    begin = open_session(run).state.weights
    for number, plan in enumerate(PLANS[2]):
        many = tmp_path / str(number)
        ranks(2).run(training.train, replace(run, parallel=plan), many, str(many))
        found = load(folders.latest(many)).tensors
        for name, weight in begin.items():
            left = found[f"model.{name}"]
            same = [torch.equal(a, b) for a, b in zip(left, weight, strict=True)]
            assert same == ([True, False, False, True] if "experts" in name else [True] * len(left))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["adamw", "adafactor"])
def test_adapters(
    ranks: Ranks, plain_run: RunConfig, tmp_path: Path, optimizer: OptimizerConfig, size: int
) -> None:
    same_runs(ranks, size, replace(plain_run, optimizer=optimizer, lora=ALL), tmp_path)


def test_what_adapters_come_to_on_two_ranks_is_merged_by_one_process(
    ranks: Ranks, plain_run: RunConfig, tmp_path: Path
) -> None:
    run = replace(plain_run, optimizer=OPTIMIZERS[0], lora=ALL)
    ranks(2).run(training.train, replace(run, parallel=P(expert=2)), tmp_path / "run", "merged")
    before, after = open_session(run).state.weights, open_native(tmp_path / "run")
    name = "decoder.blocks.1.feed_forward.moe.experts.w_in"
    assert not torch.equal(before[name], after.read(name))


def test_the_header_counts_the_whole_model(
    ranks: Ranks, plain_run: RunConfig, tmp_path: Path
) -> None:
    for run in (
        replace(plain_run, lora=ALL),
        replace(
            plain_run,
            optimizer=OPTIMIZERS[0],
            train=replace(plain_run.train, trained=("*.experts.*[1,2]",)),
        ),
    ):
        one = "\n".join(run_header(open_session(run)))
        parts = [line for line in one.splitlines() if line.startswith(("adapters", "trained"))]
        assert len(parts) == 1
        for plan in (P(expert=2), P(tensor=2)):
            tag = f"{tmp_path}/{plan}/{run.lora}"
            found = ranks(2).run(training.header, replace(run, parallel=plan), tag)
            assert all(parts[0] in text.splitlines() for text in found)


@pytest.mark.parametrize("top", [0, 4])
def test_a_student(ranks: Ranks, plain_run: RunConfig, tmp_path: Path, top: int) -> None:
    Trainer.of(open_session(plain_run), tmp_path / "teacher").run(until=3)
    run = dense_twin(replace(plain_run, optimizer=OPTIMIZERS[0]))
    run = replace(
        run,
        data=replace(run.data, cache=str(tmp_path / "cache")),
        distillation=DistillationConfig(str(tmp_path / "teacher"), soft=0.5, top=top),
        train=replace(run.train, steps=3, average=0.0),
    )
    for number, plan in enumerate((P(), P(tensor=2))):
        many = tmp_path / f"many-{number}"
        found = ranks(2).run(training.train, replace(run, parallel=plan), many, str(many))
        training.assert_same(run, tmp_path / f"one-{number}", found, many)
