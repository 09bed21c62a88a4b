"""The trainer on several ranks: the same run as one process, on any layout, through trouble."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.distributed import training
from tests.distributed.harness import Pool
from turnout.checkpoint import folders
from turnout.checkpoint.read import load
from turnout.config.guards import GuardConfig
from turnout.config.losses import LossConfig, Scope
from turnout.config.optimizers import AdafactorConfig, AdamWConfig
from turnout.config.parallel import ParallelPlan
from turnout.config.train import RunConfig
from turnout.train.session import open_session
from turnout.train.trainer import Trainer

Ranks = Callable[[int], Pool]
P = ParallelPlan


def laid(config: RunConfig, plan: ParallelPlan) -> RunConfig:
    return replace(config, parallel=plan)


@pytest.mark.parametrize("plan", [P(expert=2), P(fsdp=1), P(tensor=2, sequence=True)], ids=str)
def test_a_run_is_that_of_one_process(
    ranks: Ranks, plain_run: RunConfig, tmp_path: Path, plan: ParallelPlan
) -> None:
    job = (laid(plain_run, plan), tmp_path / "many", str(tmp_path))
    training.assert_same(plain_run, tmp_path / "one", ranks(2).run(training.train, *job), job[1])


@pytest.mark.parametrize("scope", ["batch", "previous"])
def test_losses_over_the_batch_are_those_of_one_process(
    ranks: Ranks, plain_run: RunConfig, tmp_path: Path, scope: Scope
) -> None:
    # Two micro-batches: a counting pass, or the sums of the step before, of all ranks' rows.
    losses = LossConfig(balance=0.5, importance=0.1, scope=scope)
    train = replace(plain_run.train, steps=3, expert_gradient="inverse_sqrt")
    config = replace(plain_run, losses=losses, train=train)
    watch = training.Watch()
    alone = Trainer.of(open_session(config), None, [watch]).run()
    laid_out = laid(config, P(expert=2))
    found = ranks(2).run(training.train, laid_out, tmp_path / "many", str(tmp_path))
    for one in found:
        assert one["losses"] == pytest.approx(watch.losses, rel=1e-5)
        assert one["norms"] == pytest.approx(watch.norms, rel=1e-4)
        assert one["loss"] == pytest.approx(alone.loss, rel=1e-5)


LAYOUTS = {  # data, expert, tensor
    "1x1x1": (1, P()),
    "2x1x1": (2, P()),
    "1x2x1": (2, P(expert=2)),
    "1x1x2": (2, P(tensor=2)),
    "2x2x1": (4, P(expert=2)),
    "1x2x2": (4, P(expert=2, tensor=2)),
}


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [AdamWConfig(), AdafactorConfig(min_factored=4)])
def test_saved_on_any_layout_loaded_on_any_other(
    ranks: Ranks,
    plain_run: RunConfig,
    tmp_path: Path,
    optimizer: AdamWConfig | AdafactorConfig,
) -> None:
    one = replace(plain_run.train, micro_batches=1)  # a row for each of four ranks
    config = replace(plain_run, optimizer=optimizer, train=one)
    for writer, (size, plan) in LAYOUTS.items():
        tag = f"{tmp_path}/{writer}"
        ranks(size).run(training.train, laid(config, plan), tmp_path / writer, tag, 2)
    for writer, reader in itertools.product(LAYOUTS, LAYOUTS):
        checkpoint = folders.latest(tmp_path / writer)
        (size, plan), tag = LAYOUTS[reader], f"{tmp_path}/{writer}/{reader}"
        again = ranks(size).run(
            training.saved_again, laid(config, plan), checkpoint, Path(tag) / "again", tag
        )
        before, after = load(checkpoint), load(Path(again[0]))
        assert before.tensors.keys() == after.tensors.keys(), (writer, reader)
        for name, tensor in before.tensors.items():
            assert torch.equal(tensor, after.tensors[name]), (writer, reader, name)


def test_the_next_loss_on_another_layout(
    ranks: Ranks, plain_run: RunConfig, tmp_path: Path
) -> None:
    config = laid(plain_run, P(expert=2))
    ranks(2).run(training.train, config, tmp_path / "run", f"{tmp_path}/first", 3)
    checkpoint = folders.latest(tmp_path / "run")
    session = open_session(plain_run, checkpoint)
    watch = training.Watch()
    Trainer.of(session, None, [watch]).run(session.state.step + 1)
    for number, plan in enumerate((P(), P(tensor=2), P(expert=2))):
        job = (training.go_on, laid(plain_run, plan), checkpoint, f"{tmp_path}/{number}")
        found = ranks(2).run(*job)
        assert found[0]["losses"] == pytest.approx(watch.losses, rel=1e-6), plan


def test_the_header_says_how_tokens_reach_their_experts(
    ranks: Ranks, plain_run: RunConfig, tmp_path: Path
) -> None:
    for plan, name in ((P(expert=2), "all_to_all"), (P(), "sorted"), (P(tensor=2), "sorted")):
        found = ranks(2).run(training.header, laid(plain_run, plan), f"{tmp_path}/{plan}")
        assert all(f"dispatcher {name}, product" in text for text in found), plan


def befallen(ranks: Ranks, config: RunConfig, folder: Path, kind: str) -> list[dict[str, object]]:
    config = replace(laid(config, P(expert=2)), guards=GuardConfig(max_skipped=2))
    return ranks(2).run(training.trouble, config, folder, f"{folder}/{kind}", kind, 1)


def test_a_signal_to_one_rank_stops_all(ranks: Ranks, plain_run: RunConfig, tmp_path: Path) -> None:
    found = befallen(ranks, plain_run, tmp_path, "signal")
    for one in found:
        assert one["ended"] == "Interrupted: stopped by SIGTERM after step 2"
        assert one["events"] == ["interrupt: SIGTERM (to rank 1); the state is saved"]
    assert folders.latest(tmp_path).name == "step-00000002"


def test_what_is_not_finite_on_one_rank_is_skipped_and_rolled_back_by_all(
    ranks: Ranks, plain_run: RunConfig, tmp_path: Path
) -> None:
    found = befallen(ranks, plain_run, tmp_path, "nan")
    assert [one["ended"] for one in found] == ["end", "end"]
    assert found[0]["events"] == found[1]["events"]
    names = [str(event).split(":")[0] for event in found[0]["events"]]  # type: ignore[attr-defined]
    assert names == ["skip", "skip", "rollback"]
    assert "rank 1: " in found[0]["events"][0]  # type: ignore[index]


def test_text_that_one_rank_cannot_read_stops_all(
    ranks: Ranks, plain_run: RunConfig, tmp_path: Path
) -> None:
    found = befallen(ranks, plain_run, tmp_path, "data")
    for one in found:
        assert one["ended"] == "CheckpointError: rank 1: Input/output error"


def test_a_full_disk_of_one_rank_stops_all(
    ranks: Ranks, plain_run: RunConfig, tmp_path: Path
) -> None:
    found = befallen(ranks, plain_run, tmp_path, "disk")
    for one in found:
        assert one["ended"] == "CheckpointError: rank 1: No space left on device"
    assert folders.latest(tmp_path).name == "step-00000000"
