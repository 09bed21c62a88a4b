"""Every receipt is recomputed from the checkpoints: numbers counted, functions compared again."""

import json
import math
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import turnout
from tests.surgery.models import (
    BIASED,
    SWITCH,
    decoder,
    logits,
    operate,
    saved,
    sparse,
    two_stacks,
)
from turnout.config.errors import UserError
from turnout.config.model import DecoderOnlyConfig, EncoderDecoderConfig
from turnout.config.moe import Placement
from turnout.surgery import dense, experts
from turnout.surgery.branches import Branches
from turnout.surgery.choices import Choices
from turnout.surgery.layers import counts
from turnout.surgery.upcycle import Sparse, Upcycle

EVERY = Placement(1)
DENSE, SPARSE = decoder(BIASED), decoder(BIASED, sparse())
TWO, SWITCHED = two_stacks(), two_stacks(moe=sparse(**SWITCH))


def all_layers(config, values):
    return dict.fromkeys(counts(config), values)


OPERATIONS = {
    "upcycle": (DENSE, Upcycle(Sparse(4, 2, placement=EVERY))),
    "upcycle, raw": (TWO, Upcycle(Sparse(4, 1), noise=0.05)),
    "upcycle, split": (TWO, Upcycle(Sparse(4, 2, split=2))),
    "dense": (SPARSE, dense.mean(SPARSE)),
    "dense, none": (SWITCHED, dense.fresh(SWITCHED, 0)),
    "prune": (SPARSE, experts.prune(SPARSE, all_layers(SPARSE, (3.0, 1.0, 2.0, 4.0)), 3, "load")),
    "prune, switch": (SWITCHED, experts.keep_only(SWITCHED, [1, 3])),
    "merge": (
        SPARSE,
        experts.merge(
            SPARSE, all_layers(SPARSE, [[0, 2], [1], [3]]), all_layers(SPARSE, (1.0, 1.0, 2.0, 1.0))
        ),
    ),
    "grow": (SWITCHED, experts.grow(SWITCHED, 2, None)),
    "split": (SPARSE, experts.split(SPARSE, 2)),
    "clone": (SWITCHED, experts.clone(SWITCHED, 2, True)),
    "clone, alone": (SPARSE, experts.clone(SPARSE, 2, False)),
    "reorder": (SWITCHED, experts.reorder(SWITCHED, all_layers(SWITCHED, [3, 1, 0, 2]))),
    "choices": (SPARSE, Choices(3)),
    "btx": (DENSE, Branches(Sparse(2, 2, placement=EVERY))),
}


def files(run):
    """The index of a run's one checkpoint, and all of its tensors, read by safetensors itself."""
    (index,) = Path(run).glob("checkpoints/*/index.json")
    found = {}
    for shard in index.parent.glob("*.safetensors"):
        with safe_open(shard, "pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return json.loads(index.read_text()), found


def counted(run):
    """Parameters, and of them those of a token: of E experts it passes k."""
    _, found = files(run)
    moe = turnout.load(run).config.moe
    whole = active = 0
    for name, tensor in found.items():
        if not name.endswith("balancer.bias"):
            whole += tensor.numel()
            share = tensor.numel()
            if ".experts." in name:
                share = share // tensor.shape[0] * moe.router.active
            active += share
    return whole, active


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_receipt_is_what_the_checkpoints_say(name, tmp_path):
    config, surgery = OPERATIONS[name]
    assert isinstance(config, DecoderOnlyConfig | EncoderDecoderConfig)
    runs = [saved(config, tmp_path / str(seed), seed) for seed in range(2 if name == "btx" else 1)]
    operate(surgery, runs, tmp_path / "out")
    receipt = json.loads((tmp_path / "out" / "receipt.json").read_text())

    assert receipt["operation"] == name.split(",")[0]
    for run, source in zip(runs, receipt["sources"], strict=True):
        assert source["path"] == str(run)
        index, _ = files(run)
        own = index.pop("sha256")
        digest = sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()
        assert source["sha256"] == own == digest
        assert (source["parameters"], source["active"]) == counted(run)

    before, after = receipt["before"], receipt["after"]
    assert (before["parameters"], before["active"]) == counted(runs[0])
    assert (after["parameters"], after["active"]) == counted(tmp_path / "out")
    _, old = files(runs[0])
    _, new = files(tmp_path / "out")
    stacked = [t.shape[0] for name, t in new.items() if name.endswith("experts.w_in")]
    assert sorted(after["experts"]) == sorted(stacked)
    assert receipt["taken"] + receipt["made"] + receipt["drawn"] == len(new)
    # What is taken over is the same tensor under the same name.
    alike = [n for n in new if n in old and torch.equal(new[n], old[n])]
    assert len(alike) >= receipt["taken"]

    left, right = logits(turnout.load(runs[0])), logits(turnout.load(tmp_path / "out"))
    scale = float((left - right).abs().max() / left.abs().max())
    p, q = left.log_softmax(-1), right.log_softmax(-1)
    divergence = float((p.exp() * (p - q)).sum(-1).mean())
    compared = receipt["compared"]
    assert compared["tokens"] == left.shape[0] * left.shape[1]
    if receipt["expected"] == "preserved":
        # Here in float32, there in float64.
        assert compared["logits"] <= compared["bound"] <= 1e-5 and scale <= 1e-5
        assert compared["dtype"] == "float64"
    else:
        assert compared["logits"] == pytest.approx(scale, rel=1e-3)
        assert compared["divergence"] == pytest.approx(divergence, rel=1e-2, abs=1e-9)
        assert compared["logits"] > 1e-4
    assert compared["before"] is None and compared["bits_after"] is None
    assert all(math.isfinite(compared[key]) for key in ("logits", "divergence"))


def test_every_operation_has_a_receipt_that_is_recomputed():
    from turnout.cli.surgery import KINDS

    # That of domains needs labels: tests/surgery/test_domains.py.
    assert {name.split(",")[0] for name in OPERATIONS} | {"domains"} == set(KINDS)


def test_a_dry_run_says_the_arithmetic_and_writes_nothing(tmp_path):
    from turnout.surgery.opened import open_source
    from turnout.surgery.operate import Job

    run = saved(SPARSE, tmp_path / "run")
    job = Job(experts.split(SPARSE, 2), (open_source(str(run)),), {})
    dry = job.planned().receipt()
    wet = operate(experts.split(SPARSE, 2), run, tmp_path / "out")
    assert dry.compared is None and (dry.before, dry.after) == (wet.before, wet.after)
    assert (dry.taken, dry.made, dry.drawn) == (wet.taken, wet.made, wet.drawn)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_model_that_is_not_finite_is_no_proof_of_anything(value, tmp_path):
    model = turnout.load(saved(SPARSE, tmp_path / "sound"))
    with torch.no_grad():
        model.embedding.weight.fill_(value)
    source = turnout.save(model, tmp_path / "damaged")
    surgery = experts.reorder(SPARSE, all_layers(SPARSE, [3, 1, 0, 2]))
    with pytest.raises(UserError, match=r"^the old model has a logit that is not finite on rows"):
        operate(surgery, source, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged", "sound"]
