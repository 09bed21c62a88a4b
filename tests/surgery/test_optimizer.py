"""The optimiser's state: by the same rules as the weights, and training goes on with it."""

import json
from pathlib import Path

import pytest
import torch

from tests.surgery.conftest import train
from turnout.checkpoint import folders
from turnout.checkpoint.read import load, load_meta
from turnout.config import io
from turnout.config.errors import UserError
from turnout.config.moe import Placement
from turnout.config.train import RunConfig
from turnout.surgery import experts
from turnout.surgery.layers import counts
from turnout.surgery.opened import open_source
from turnout.surgery.operate import Job
from turnout.surgery.upcycle import Sparse, Upcycle

ADAFACTOR = {"optimizer": "adafactor", "optimizer.min_factored": "8"}
UPCYCLED = Upcycle(Sparse(4, 2, placement=Placement(1), split=2))


def operate(surgery, run, target, optimizer="keep"):
    return Job(surgery, (open_source(str(run)),), {}, optimizer).planned().write(target)


def stored(run):
    return load(folders.latest(run)).tensors


def config_of(run, **options):
    config = io.from_dict(RunConfig, load_meta(folders.latest(run))["config"])
    return io.override(config, options)


def test_adamw_state_is_upcycled_like_the_weights(runs, tmp_path):
    run = runs(dense=True)
    receipt = operate(UPCYCLED, run, tmp_path / "out")
    old, new = stored(run), stored(tmp_path / "out")
    for layer in range(2):
        prefix = f"decoder.blocks.{layer}.feed_forward"
        for part, dimension in (("w_in", 1), ("w_out", 0)):
            for key in ("exp_avg", "exp_avg_sq"):
                dense = old[f"optimizer.{prefix}.network.{part}.{key}"].T
                found = new[f"optimizer.{prefix}.moe.experts.{part}.{key}"]
                halves = dense.chunk(2, dimension)
                assert torch.equal(found, torch.stack([*halves] * 4))
    name = "optimizer.decoder.blocks.0.self_attention.attention.query.weight.exp_avg"
    assert torch.equal(new[name], old[name])
    meta = load_meta(folders.latest(tmp_path / "out"))
    untrained = meta["optimizer"]["untrained"]
    assert untrained == [f"decoder.blocks.{n}.feed_forward.moe.router.weight" for n in range(2)]
    assert "state of" in receipt.optimizer and (meta["step"], meta["control"]["batch"]) == (3, 3)


def test_adafactors_factors_are_turned_with_the_matrices(runs, tmp_path):
    """Means over rows and columns: of the transposed matrix they are each other."""
    run = runs(dense=True, **ADAFACTOR)
    operate(UPCYCLED, run, tmp_path / "out")
    old, new = stored(run), stored(tmp_path / "out")
    dense, moe = "optimizer.decoder.blocks.0.feed_forward.network", "moe.experts"
    sparse = dense.replace("network", moe)
    row, column = (old[f"{dense}.w_in.{key}"] for key in ("row", "column"))  # of [24, 16]
    assert row.shape == (24,) and column.shape == (16,)
    assert torch.equal(new[f"{sparse}.w_in.row"], column.expand(8, 16))
    assert torch.equal(new[f"{sparse}.w_in.column"], torch.stack([*row.chunk(2)] * 4))
    row, column = (old[f"{dense}.w_out.{key}"] for key in ("row", "column"))  # of [16, 24]
    assert torch.equal(new[f"{sparse}.w_out.row"], torch.stack([*column.chunk(2)] * 4))
    assert torch.equal(new[f"{sparse}.w_out.column"], row.expand(8, 16))
    config = config_of(tmp_path / "out", **{"train.steps": "6"})
    assert train(config, tmp_path / "out", tmp_path / "out") < 10


def test_moments_that_are_no_longer_factored_begin_anew(runs, tmp_path):
    """Shares of 24 / 4 = 6 hidden units are narrower than 8, the least that is factored."""
    run = runs(dense=True, **ADAFACTOR)
    surgery = Upcycle(Sparse(2, 2, placement=Placement(1), split=4))
    operate(surgery, run, tmp_path / "out")
    untrained = load_meta(folders.latest(tmp_path / "out"))["optimizer"]["untrained"]
    assert "decoder.blocks.0.feed_forward.moe.experts.w_in" in untrained
    config = config_of(tmp_path / "out", **{"train.steps": "5"})
    train(config, tmp_path / "out", tmp_path / "out")


@pytest.mark.parametrize("options", [{}, ADAFACTOR], ids=["adamw", "adafactor"])
def test_a_reordered_run_trains_on_as_the_run_itself_would(options, runs, tmp_path):
    """Function, state, step and batches are the same; what differs is rounding."""
    run = runs(**options)
    config = config_of(run)
    orders = {name: [2, 3, 0, 1] for name in counts(config.model)}
    operate(experts.reorder(config.model, orders), run, tmp_path / "out")
    longer = io.override(config, {"train.steps": "6"})
    mine = train(longer, tmp_path / "mine", run)
    theirs = train(longer, tmp_path / "theirs", tmp_path / "out")
    before = train(io.override(config, {"train.steps": "4"}), tmp_path / "less", run)
    assert theirs == pytest.approx(mine, rel=1e-5)
    assert abs(before - mine) > 100 * abs(theirs - mine)  # three more steps are no rounding
    one, other = stored(tmp_path / "mine"), stored(tmp_path / "theirs")
    for name, tensor in one.items():
        by_expert = ".experts." in name or (".router." in name and not name.endswith(".column"))
        again = other[name][[2, 3, 0, 1]] if by_expert else other[name]
        assert torch.allclose(again, tensor, rtol=1e-2, atol=1e-4), name


@pytest.mark.parametrize("optimizer", ["keep", "drop"])
@pytest.mark.parametrize("fresh", [True, False])
def test_grown_runs_train_on(optimizer, fresh, runs, tmp_path):
    run = runs()
    config = config_of(run).model
    of = None if fresh else {name: [0] for name in counts(config)}
    noise = 0.0 if fresh else 0.1
    operate(experts.grow(config, 2, of, noise), run, tmp_path / "out", optimizer)
    meta = load_meta(folders.latest(tmp_path / "out"))
    assert meta["step"] == (3 if optimizer == "keep" else 0)
    more = config_of(tmp_path / "out", **{"train.steps": "5"})
    assert train(more, tmp_path / "out", tmp_path / "out") < 10
    assert load_meta(folders.latest(tmp_path / "out"))["step"] == 5


def test_what_is_dropped_begins_anew(runs, tmp_path):
    run = runs(dense=True)
    receipt = operate(UPCYCLED, run, tmp_path / "out", "drop")
    names = stored(tmp_path / "out")
    assert all(name.startswith("model.") for name in names)
    assert receipt.optimizer == "begins anew, at step 0"
    meta = load_meta(folders.latest(tmp_path / "out"))
    assert meta["step"] == meta["tokens"] == meta["control"]["batch"] == 0
    # Losses that keep experts in balance are on again, which the dense twin has none of.
    assert meta["config"]["losses"]["balance"] > 0
    assert json.loads((tmp_path / "out" / "receipt.json").read_text())["expected"] == "preserved"


def test_moving_averages_are_taken_along_or_become_the_weights(runs, tmp_path):
    run = runs(dense=True, **{"train.average": "0.5"})
    operate(UPCYCLED, run, tmp_path / "kept")
    operate(UPCYCLED, run, tmp_path / "dropped", "drop")
    old, kept, dropped = (stored(path) for path in (run, tmp_path / "kept", tmp_path / "dropped"))
    name = "decoder.blocks.1.feed_forward.{}.w_in"
    dense, sparse = name.format("network"), name.format("moe.experts")
    for prefix in ("model.", "average."):
        expected = torch.stack([*old[prefix + dense].T.chunk(2, 1)] * 4)
        assert torch.equal(kept[prefix + sparse], expected)
    assert not torch.equal(old["model." + dense], old["average." + dense])
    assert torch.equal(dropped["model." + sparse], kept["average." + sparse])
    more = config_of(tmp_path / "kept", **{"train.steps": "5"})
    assert train(more, tmp_path / "kept", tmp_path / "kept") < 10


def test_state_goes_with_the_text_that_it_comes_from(runs, tmp_path):
    job = Job(UPCYCLED, (open_source(str(runs(dense=True))),), {"data.seed": "7"}, "keep")
    with pytest.raises(UserError, match="--optimizer keep: goes on in the text of") as caught:
        job.planned()
    assert "\n" not in str(caught.value)
    assert Job(UPCYCLED, job.sources, job.overrides, "drop").planned()


def test_a_checkpoint_without_state_keeps_none(runs, tmp_path):
    run = runs(dense=True)
    operate(UPCYCLED, run, tmp_path / "out", "drop")
    config = config_of(tmp_path / "out").model
    made = experts.reorder(config, {name: list(range(8)) for name in counts(config)})
    with pytest.raises(UserError, match=r"keep: .* holds no optimiser state"):
        operate(made, tmp_path / "out", tmp_path / "again")
    assert not Path(tmp_path / "again").exists()
