"""Upcycling: the dense function where it can be kept, and the way back to the bit."""

import pytest
import torch

import turnout
from tests.surgery.models import (
    BIASED,
    GATED,
    PLAIN,
    apart,
    decoder,
    operate,
    saved,
    sparse,
    tensors,
    two_stacks,
)
from turnout.config import io
from turnout.config.errors import UserError
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.moe import Placement
from turnout.config.train import RunConfig
from turnout.moe.build import build_layer
from turnout.moe.context import RoutingContext
from turnout.nn.feed_forward import FeedForward
from turnout.surgery import dense
from turnout.surgery.upcycle import Sparse, Upcycle

EVERY = Placement(1)


@pytest.mark.parametrize("network", [GATED, PLAIN, BIASED], ids=lambda n: n.activation)
@pytest.mark.parametrize("shape", [decoder, two_stacks])
def test_renormalised_weights_keep_the_function(shape, network, tmp_path):
    run = saved(shape(network), tmp_path / "dense")
    receipt = operate(Upcycle(Sparse(4, 2)), run, tmp_path / "sparse")
    assert receipt.expected == "preserved"
    assert receipt.compared.logits <= 1e-6
    assert apart(run, tmp_path / "sparse") <= 1e-6
    config = turnout.load(tmp_path / "sparse").config
    # Every other layer: of two layers one, of a decoder's four two.
    sparse_layers = [len(stack.sparse_layers) for stack in config.stacks()]
    assert sparse_layers == ([1] if shape is decoder else [1, 2])


@pytest.mark.parametrize("parts", [2, 3, 4])
@pytest.mark.parametrize("k", [2, 3])
def test_shares_of_a_network_add_up_to_it(k, parts, tmp_path):
    run = saved(decoder(BIASED), tmp_path / "dense")
    surgery = Upcycle(Sparse(3, k, split=parts, placement=EVERY))
    receipt = operate(surgery, run, tmp_path / "sparse")
    assert receipt.expected == "preserved" and apart(run, tmp_path / "sparse") <= 1e-6
    assert receipt.after.experts == (3 * parts,) * 2
    assert receipt.after.choices == k * parts
    config = turnout.load(tmp_path / "sparse").config
    assert config.moe.expert == FeedForwardConfig(12 // parts, "geglu", True, "multiplicative")


def test_the_shares_are_those_of_the_units(tmp_path):
    """Expert g M + m holds hidden units m F/M .. (m + 1) F/M - 1, its outputs M times as large."""
    run = saved(decoder(), tmp_path / "dense")
    operate(Upcycle(Sparse(2, 2, split=3, placement=EVERY)), run, tmp_path / "sparse")
    old, new = tensors(run), tensors(tmp_path / "sparse")
    for layer in range(2):
        prefix = f"decoder.blocks.{layer}.feed_forward"
        for group in range(2):
            for part in range(3):
                expert, units = 3 * group + part, slice(4 * part, 4 * part + 4)
                for name in ("w_in", "w_gate"):
                    found = new[f"{prefix}.moe.experts.{name}"][expert]
                    assert torch.equal(found, old[f"{prefix}.network.{name}"][units].T)
                out = old[f"{prefix}.network.w_out"][:, units].T
                assert torch.equal(new[f"{prefix}.moe.experts.w_out"][expert], 3 * out)
        router = new[f"{prefix}.moe.router.weight"].view(2, 3, 8)
        assert torch.equal(router, router[:, :1].expand(2, 3, 8))
        assert not torch.equal(router[0, 0], router[1, 0])


def test_one_renormalised_choice_is_the_dense_layer_to_the_bit():
    """One expert of weight p / p = 1. All numbers are multiples of 1/8 below 2, their sums of eight
    products exact in float32, so that no order of summation can hide a difference."""
    torch.manual_seed(0)
    network = FeedForwardConfig(8, "relu")
    whole = FeedForward(8, network)
    config = sparse(4, router=turnout.config.routers.TopPRouter(1e-9, 4, "renormalised"))
    layer = build_layer(config, d_model=8, feed_forward=network).eval()
    x = torch.randint(-8, 9, (2, 5, 8)) / 8
    with torch.no_grad():
        for part in ("w_in", "w_out"):
            weight = torch.randint(-8, 9, (8, 8)) / 8
            getattr(whole, part).copy_(weight)
            getattr(layer.experts, part).copy_(weight.T.expand(4, 8, 8))
        y, _, decision = layer(x, RoutingContext.of(torch.ones(2, 5, dtype=torch.bool)))
        assert torch.equal(decision.live.sum(-1), torch.ones(2, 5, dtype=torch.long))
        assert torch.equal(y, whole(x)) and float(y.abs().max()) > 0.1


def test_one_renormalised_choice_of_a_whole_model(tmp_path):
    run = saved(two_stacks(), tmp_path / "dense")
    options = {"model.moe.router": "top_p", "model.moe.router.p": "1e-9"}
    receipt = operate(
        Upcycle(Sparse(4, 2, placement=EVERY)),
        run,
        tmp_path / "sparse",
        **options,
        **{"model.moe.router.weights": "renormalised"},
    )
    assert receipt.expected == "preserved"
    assert receipt.compared.logits <= 1e-6


def test_raw_weights_change_the_function_and_say_by_how_much(tmp_path):
    run = saved(decoder(), tmp_path / "dense")
    plain = operate(Upcycle(Sparse(4, 1, placement=EVERY)), run, tmp_path / "raw")
    scaled = operate(Upcycle(Sparse(4, 1, placement=EVERY), scale_out=True), run, tmp_path / "out")
    assert plain.expected == scaled.expected == "changed"
    assert plain.compared.logits > 0.01
    assert plain.compared.logits == pytest.approx(apart(run, tmp_path / "raw"), rel=1e-3)
    # Four experts and one choice: outputs are multiplied by 4.
    name = "decoder.blocks.0.feed_forward.moe.experts.w_out"
    assert torch.equal(tensors(tmp_path / "out")[name], 4 * tensors(tmp_path / "raw")[name])
    assert scaled.compared.divergence < plain.compared.divergence


@pytest.mark.parametrize(
    ("router", "times"),
    [
        # Raw probabilities of 2 of 4 experts add up to 1/2, with a scale of 4 to 2.
        ({"kind": "top_k", "weights": "raw"}, 2.0),
        ({"kind": "top_k", "weights": "raw", "scale": "4.0"}, 0.5),
        ({"kind": "top_k", "scale": "4.0"}, 0.25),
        # Sigmoids of 0 are 1/2: two of them add up to 1, one to 1/2.
        ({"kind": "sigmoid_top_k", "weights": "raw"}, 1.0),
        ({"kind": "sigmoid_top_k", "scale": "2.0"}, 0.5),
        ({"kind": "base"}, 2.0),
        ({"kind": "switch"}, 4.0),
        ({"kind": "top2"}, 1.0),
        # Half of the weight is the second expert's, which is not taken: 1/2.
        ({"kind": "top2", "second_in_evaluation": "none"}, 2.0),
        ({"kind": "top2", "second_in_evaluation": "threshold", "threshold": "0.6"}, 2.0),
        # Of probabilities 1/4 two reach 0.5 and three 0.6; of one alone there is 1/4.
        ({"kind": "top_p", "p": "0.5"}, 2.0),
        ({"kind": "top_p", "p": "0.6"}, 4 / 3),
        ({"kind": "top_p", "p": "0.6", "most": "1"}, 4.0),
        ({"kind": "top_p", "p": "0.6", "weights": "renormalised"}, 1.0),
        # All four are above the threshold, in evaluation too.
        ({"kind": "dense_to_sparse"}, 1.0),
    ],
)
def test_outputs_are_scaled_by_the_expected_weight(router, times, tmp_path):
    """A router that knows nothing has logits of 0; scaled, it is then right for any token."""
    run = saved(decoder(), tmp_path / "dense")
    options = {f"model.moe.router.{name}": value for name, value in router.items()}
    if router["kind"] == "base":  # it assigns a whole group at once, in training
        options["model.moe.allow_future_routing"] = "true"
    surgery = Upcycle(Sparse(4, 2, placement=EVERY, router_std=0.0), scale_out=True)
    receipt = operate(surgery, run, tmp_path / "out", **options)
    new, old = tensors(tmp_path / "out"), tensors(run)
    out = old["decoder.blocks.0.feed_forward.network.w_out"].T
    assert torch.equal(new["decoder.blocks.0.feed_forward.moe.experts.w_out"][2], times * out)
    if router["kind"] != "base":  # whose centroids are orthogonal, whatever the deviation
        assert receipt.compared.logits <= 1e-5


@pytest.mark.parametrize("scale_out", [False, True])
def test_weights_that_are_divided_after_drops_add_up_to_one(scale_out, tmp_path):
    """Raw ones of 2 of 4 experts, divided by their sum: nothing is left to scale."""
    run = saved(decoder(), tmp_path / "dense")
    surgery = Upcycle(Sparse(4, 2, "raw", placement=EVERY), scale_out=scale_out)
    options = {"model.moe.weights_after_drops": "true"}
    receipt = operate(surgery, run, tmp_path / "out", **options)
    assert receipt.expected == "preserved" and "add up to 1" in receipt.why
    assert receipt.compared.logits <= 1e-6 and receipt.back.endswith("--expert 0")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"router": "dense_to_sparse"}, "add up to about 1, and not for every token"),
        # Three experts of 1/4 reach 0.6; two of four choices have 1/2.
        ({"router": "top_p", "router.p": "0.6"}, "at first to about 0.75"),
        ({"router.weights": "raw"}, "at first to about 0.5"),
        ({"output_masking": "0.2"}, "1 - model.moe.output_masking"),
    ],
)
def test_the_reason_is_that_of_the_router(options, why):
    old = RunConfig(decoder())
    surgery = Upcycle(Sparse(4, 2, placement=EVERY))
    options = {f"model.moe.{name}": value for name, value in options.items()}
    new = io.override(surgery.run(old), options).model
    found = surgery.expected(old.model, new)
    assert not found.preserved and why in found.why


@pytest.mark.parametrize("experts", [2, 3, 5])
@pytest.mark.parametrize("which", ["mean", "first"])
def test_back_to_the_dense_model_bit_for_bit(experts, which, tmp_path):
    run = saved(two_stacks(BIASED), tmp_path / "dense")
    receipt = operate(Upcycle(Sparse(experts, 2, placement=EVERY)), run, tmp_path / "sparse")
    assert receipt.back == (
        f"turnout surgery dense {tmp_path / 'sparse'} --out {tmp_path / 'sparse'}-back --expert 0"
    )
    config = turnout.load(tmp_path / "sparse").config
    back = dense.mean(config) if which == "mean" else dense.number(config, 0)
    receipt = operate(back, tmp_path / "sparse", tmp_path / "back")
    assert turnout.load(tmp_path / "back").config == turnout.load(run).config
    old, new = tensors(run), tensors(tmp_path / "back")
    assert old.keys() == new.keys()
    assert all(torch.equal(old[name], new[name]) for name in old)


def test_noise_is_relative_to_each_weight(tmp_path):
    run = saved(decoder(BIASED), tmp_path / "dense")
    operate(Upcycle(Sparse(4, 2, placement=EVERY)), run, tmp_path / "plain")
    receipt = operate(Upcycle(Sparse(4, 2, placement=EVERY), noise=0.1), run, tmp_path / "noisy")
    assert receipt.expected == "changed" and receipt.compared.logits > 1e-4
    plain, noisy = tensors(tmp_path / "plain"), tensors(tmp_path / "noisy")
    name = "decoder.blocks.1.feed_forward.moe.experts.w_in"
    added = noisy[name] - plain[name]
    # 4 x 96 draws of deviation 0.1: their root mean square is within 15 % of it (4 sigma).
    found = float(added.square().mean().sqrt() / plain[name].square().mean().sqrt())
    assert found == pytest.approx(0.1, rel=0.15)
    assert not torch.equal(added[0], added[1])
    others = [name for name in plain if "experts" not in name]
    assert all(torch.equal(plain[name], noisy[name]) for name in others)


def test_router_deviation_and_seed(tmp_path):
    run = saved(decoder(), tmp_path / "dense")
    name = "decoder.blocks.0.feed_forward.moe.router.weight"
    found = {}
    for label, std, seed in (("a", 0.5, 0), ("b", 0.5, 0), ("c", 0.5, 1), ("zero", 0.0, 0)):
        surgery = Upcycle(Sparse(16, 2, placement=EVERY, router_std=std, seed=seed))
        receipt = operate(surgery, run, tmp_path / label)
        found[label] = tensors(tmp_path / label)[name]
        assert any("all logits are equal" in note for note in receipt.notes) == (std == 0)
    assert torch.equal(found["a"], found["b"]) and not torch.equal(found["a"], found["c"])
    # 128 draws: within 25 % (4 sigma).
    assert float(found["a"].std()) == pytest.approx(0.5, rel=0.25)
    assert not found["zero"].any()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"experts": 4, "k": 5}, "--k = 5: must be at most --experts (4)"),
        ({"experts": 0}, "--experts = 0: must be at least 1"),
        ({"experts": 4, "split": 5}, "--split = 5: must be a divisor of d_ff (12)"),
        ({"experts": 4, "router_std": -1.0}, "--router-std = -1.0: must be at least 0"),
        ({"experts": 4, "k": 1, "weights": "renormalised"}, "must be 'raw' when router.k is 1"),
        ({"experts": 4, "placement": Placement(9)}, "such that one of the 2 layers is sparse"),
    ],
)
def test_what_cannot_be_is_one_line(asked, message, tmp_path):
    run = saved(decoder(), tmp_path / "dense")
    with pytest.raises(UserError) as caught:
        operate(Upcycle(Sparse(**asked)), run, tmp_path / "sparse")
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense"]


def test_a_sparse_model_is_refused(tmp_path):
    run = saved(decoder(moe=sparse()), tmp_path / "run")
    with pytest.raises(UserError, match="has experts already"):
        operate(Upcycle(Sparse(4)), run, tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model.moe.num_experts": "5"}, "must be 4, --experts times --split"),
        ({"model.moe.shared_experts": "1"}, "must be left out in upcycling"),
        ({"model.moe.router": "hash"}, "model.moe.router.kind = 'hash': must be one of"),
        ({"model.d_model": "16"}, "the checkpoint is of another width"),
        ({"model.norm": "layer"}, "makes no such tensor"),
    ],
)
def test_options_that_make_another_model_are_refused(options, message, tmp_path):
    run = saved(decoder(), tmp_path / "dense")
    with pytest.raises(UserError, match=message):
        operate(Upcycle(Sparse(4, 2)), run, tmp_path / "sparse", **options)
    assert not (tmp_path / "sparse").exists()
