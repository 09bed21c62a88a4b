"""Dense models out of sparse ones, and one model of several dense ones (Branch-Train-MiX)."""

import pytest
import torch

import turnout
from tests.surgery.models import (
    BIASED,
    GATED,
    apart,
    decoder,
    operate,
    saved,
    sparse,
    tensors,
    two_stacks,
)
from turnout.config.errors import UserError
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.moe import Placement
from turnout.surgery import dense
from turnout.surgery.branches import Branches
from turnout.surgery.layers import counts
from turnout.surgery.upcycle import Sparse, Upcycle

PARTS = ("w_in", "w_gate", "w_out", "b_in", "b_gate", "b_out", "hidden_bias")
FINE = FeedForwardConfig(6, "swiglu")


def pairs(old, new):
    """The experts' tensors [E, ..] beside the dense network's, turned like them."""
    for name in new:
        if ".network." in name and name.replace("network", "moe.experts") in old:
            tensor = new[name]
            yield (
                old[name.replace("network", "moe.experts")],
                tensor.mT if tensor.dim() > 1 else tensor,
            )


@pytest.mark.parametrize("config", [decoder(BIASED, sparse(3)), two_stacks(moe=sparse(3))])
def test_the_mean_of_the_experts(config, tmp_path):
    run = saved(config, tmp_path / "run")
    receipt = operate(dense.mean(config), run, tmp_path / "out")
    old, new = tensors(run), tensors(tmp_path / "out")
    found = list(pairs(old, new))
    assert len(found) == len(counts(config)) * (7 if config.feed_forward.bias else 2)
    for experts, network in found:
        assert torch.allclose(network, experts.mean(0), rtol=1e-5, atol=1e-7)
    assert receipt.expected == "changed" and receipt.after.experts == ()
    assert all("router" in name for name in receipt.left)
    assert turnout.load(tmp_path / "out").config.moe is None


def test_one_expert_and_the_heaviest(tmp_path):
    config = decoder(moe=sparse(3))
    run = saved(config, tmp_path / "run")
    operate(dense.number(config, 2), run, tmp_path / "second")
    loads = {"decoder.0.moe": (1.0, 5.0, 5.0), "decoder.1.moe": (0.0, 0.0, 9.0)}
    operate(dense.heaviest(config, loads), run, tmp_path / "heavy")
    old = tensors(run)
    for experts, network in pairs(old, tensors(tmp_path / "second")):
        assert torch.equal(network, experts[2])
    heavy = tensors(tmp_path / "heavy")
    for layer, expert in ((0, 1), (1, 2)):
        prefix = f"decoder.blocks.{layer}.feed_forward"
        weight = old[f"{prefix}.moe.experts.w_in"][expert]
        assert torch.equal(heavy[f"{prefix}.network.w_in"], weight.T)


def test_a_students_start(tmp_path):
    """All but the sparse layers from the teacher, these as training would begin with them."""
    config = two_stacks(moe=sparse(3, expert=FeedForwardConfig(5, "relu"), placement=Placement(2)))
    run = saved(config, tmp_path / "run")
    receipt = operate(dense.fresh(config, 1), run, tmp_path / "a")
    operate(dense.fresh(config, 1), run, tmp_path / "b")
    operate(dense.fresh(config, 2), run, tmp_path / "c")
    old = tensors(run)
    a, b, c = (tensors(tmp_path / name) for name in "abc")
    drawn = [name for name in a if name not in old]
    assert receipt.drawn == len(drawn) == 2 * 3
    assert all(torch.equal(a[name], old[name]) for name in a if name in old)
    for name in drawn:
        assert torch.equal(a[name], b[name]) and not torch.equal(a[name], c[name])
        # Fan-in: deviation 1 / sqrt(inputs), over at least 96 draws.
        assert float(a[name].std()) == pytest.approx(a[name].shape[1] ** -0.5, rel=0.4)


@pytest.mark.parametrize(
    ("config", "make", "message"),
    [
        (decoder(moe=sparse(shared_experts=1)), dense.mean, "has no place for them"),
        (decoder(moe=sparse(expert=FINE, placement=Placement(2))), dense.mean, "must be that of"),
        (
            decoder(moe=sparse(3)),
            lambda c: dense.number(c, 3),
            "--expert = 3: must be one of 0 to 2",
        ),
        (decoder(), dense.mean, "the model is dense"),
    ],
)
def test_what_cannot_be_is_one_line(config, make, message, tmp_path):
    run = saved(config, tmp_path / "run")
    with pytest.raises(UserError) as caught:
        operate(make(config), run, tmp_path / "out")
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_fine_experts_in_every_layer_make_a_narrow_dense_model(tmp_path):
    config = decoder(GATED, sparse(expert=FINE))
    receipt = operate(dense.mean(config), saved(config, tmp_path / "run"), tmp_path / "out")
    assert turnout.load(tmp_path / "out").config.feed_forward == FINE
    assert receipt.after.parameters == turnout.load(tmp_path / "out").config.num_params()


def test_branches_become_experts_and_the_rest_their_mean(tmp_path):
    runs = [saved(decoder(BIASED), tmp_path / str(seed), seed) for seed in range(3)]
    made = Branches(Sparse(3, 2, placement=Placement(2)))
    receipt = operate(made, runs, tmp_path / "out")
    old, new = [tensors(run) for run in runs], tensors(tmp_path / "out")
    for name, tensor in new.items():
        if ".experts." in name:
            theirs = [each[name.replace("moe.experts", "network")] for each in old]
            turned = [each.T if each.dim() == 2 else each for each in theirs]
            assert torch.equal(tensor, torch.stack(turned))
        elif ".router." not in name:
            mean = torch.stack([each[name] for each in old]).double().mean(0)
            assert torch.allclose(tensor.double(), mean, rtol=1e-6, atol=1e-8)
    assert len(receipt.sources) == 3 and receipt.drawn == 1
    assert [origin.parameters for origin in receipt.sources] == [old_size(old[0])] * 3


def old_size(found):
    return sum(tensor.numel() for tensor in found.values())


def test_branches_of_one_model_are_that_model(tmp_path):
    run = saved(two_stacks(), tmp_path / "run")
    surgery = Branches(Sparse(3, 2, placement=Placement(1)))
    receipt = operate(surgery, [run, run, run], tmp_path / "out")
    assert receipt.compared.logits <= 1e-6 and apart(run, tmp_path / "out") <= 1e-6


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            decoder(FeedForwardConfig(16, "swiglu")),
            "model.feed_forward.d_ff = 16: must be 12, as in",
        ),
        (two_stacks(), "model.kind = 'encoder_decoder': must be 'decoder_only'"),
    ],
)
def test_branches_of_other_shapes_are_refused(other, message, tmp_path):
    runs = [saved(decoder(), tmp_path / "a"), saved(other, tmp_path / "b")]
    with pytest.raises(UserError) as caught:
        operate(Branches(Sparse(2, 2)), runs, tmp_path / "out")
    assert message in str(caught.value) and str(tmp_path / "b") in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_sparse_branches_are_refused(tmp_path):
    runs = [saved(decoder(moe=sparse()), tmp_path / name) for name in "ab"]
    with pytest.raises(UserError, match="has experts already"):
        operate(Branches(Sparse(2, 2)), runs, tmp_path / "out")
    with pytest.raises(UserError, match="has experts already"):
        operate(Upcycle(Sparse(2, 2)), runs[0], tmp_path / "out")
