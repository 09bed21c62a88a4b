"""Prune, merge, grow, split, clone, reorder and change k, against plain indexing and plain sums."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import turnout
from tests.surgery.models import (
    BIASED,
    GATED,
    SWITCH,
    apart,
    built,
    decoder,
    operate,
    saved,
    sparse,
    tensors,
    two_stacks,
)
from turnout.config.errors import UserError
from turnout.config.routers import (
    LabelRouter,
    NoisyTopKRouter,
    SigmoidTopKRouter,
    SwitchRouter,
    Top2Router,
    TopKRouter,
)
from turnout.surgery import experts
from turnout.surgery.choices import Choices
from turnout.surgery.layers import counts
from turnout.surgery.opened import open_source

SCORES = (0.3, 0.9, 0.1, 0.9)


def by_expert(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors that have a row an expert."""
    return {name: t for name, t in found.items() if ".experts." in name or ".router." in name}


def same_elsewhere(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    names = [name for name in one if name not in by_expert(one)]
    return all(torch.equal(one[name], other[name]) for name in names)


def for_all(config, values):
    return dict.fromkeys(counts(config), values)


@pytest.mark.parametrize("config", [decoder(BIASED, sparse()), two_stacks(moe=sparse())])
def test_pruning_keeps_the_best_in_their_order(config, tmp_path):
    """Scores .3 .9 .1 .9: the best two are 1 and 3, the best three 0, 1 and 3."""
    run = saved(config, tmp_path / "run")
    for keep, kept in ((2, [1, 3]), (3, [0, 1, 3])):
        made = experts.prune(config, for_all(config, SCORES), keep, "load")
        receipt = operate(made, run, tmp_path / f"kept{keep}")
        old, new = tensors(run), tensors(tmp_path / f"kept{keep}")
        assert same_elsewhere(old, new)
        assert all(torch.equal(new[name], t[kept]) for name, t in by_expert(old).items())
        assert receipt.expected == "changed" and receipt.compared.logits > 1e-3
        assert receipt.arguments["kept"] == for_all(config, kept)
        assert set(receipt.after.experts) == {keep}


def test_pruning_what_no_token_takes_changes_nothing(tmp_path):
    """Experts whose bias is -100 are never among the best two, and have no probability."""
    config = decoder(moe=sparse(router=TopKRouter(2, bias=True)))
    model = turnout.load(saved(config, tmp_path / "first"))
    with torch.no_grad():
        for layer in model.sparse_layers().values():
            layer.router.bias.copy_(torch.tensor([0.0, -100.0, 0.0, 0.0]))
    run = turnout.save(model, tmp_path / "run")
    receipt = operate(experts.keep_only(config, [0, 2, 3]), run, tmp_path / "out")
    assert receipt.compared.logits <= 1e-6


@pytest.mark.parametrize(
    "router",
    [
        SwitchRouter(),
        TopKRouter(2),
        TopKRouter(2, "raw", scale=3.0, bias=True),
        Top2Router(),
        NoisyTopKRouter(2),
        SigmoidTopKRouter(2),
        turnout.config.routers.ExpertChoiceRouter(2),
    ],
    ids=lambda router: router.kind,
)
def test_reordering_keeps_the_function_and_goes_back(router, tmp_path):
    config = two_stacks(moe=sparse(router=router, allow_future_routing=True))
    run = saved(config, tmp_path / "run")
    order = [2, 0, 3, 1]
    receipt = operate(experts.reorder(config, for_all(config, order)), run, tmp_path / "out")
    old, new = tensors(run), tensors(tmp_path / "out")
    assert all(torch.equal(new[name], t[order]) for name, t in by_expert(old).items())
    assert receipt.expected == "preserved" and apart(run, tmp_path / "out") <= 1e-5
    # Expert 0 stands at 1, 1 at 3, 2 at 0, 3 at 2.
    assert receipt.back.endswith("decoder.3.moe=1,3,0,2")
    back = experts.reorder(config, for_all(config, [1, 3, 0, 2]))
    operate(back, tmp_path / "out", tmp_path / "back")
    again = tensors(tmp_path / "back")
    assert all(torch.equal(again[name], tensor) for name, tensor in old.items())


@pytest.mark.parametrize(
    ("router", "becomes"),
    [
        (SwitchRouter(), TopKRouter(3, "raw")),
        (TopKRouter(2), TopKRouter(6)),
        (TopKRouter(1, "raw", scale=2.0), TopKRouter(3, "raw", scale=2.0)),
        (Top2Router(), TopKRouter(6)),
        (NoisyTopKRouter(2), NoisyTopKRouter(6)),
        (SigmoidTopKRouter(2), SigmoidTopKRouter(6)),
        (SigmoidTopKRouter(2, weights="raw"), SigmoidTopKRouter(6, weights="raw", scale=1 / 3)),
    ],
    ids=lambda router: f"{router.kind}-{getattr(router, 'weights', '')}",
)
@pytest.mark.parametrize("how", ["clone", "split"])
def test_copies_that_share_the_weight_keep_the_function(how, router, becomes, tmp_path):
    config = decoder(BIASED, sparse(router=router))
    run = saved(config, tmp_path / "run")
    made = experts.clone(config, 3, True) if how == "clone" else experts.split(config, 3)
    receipt = operate(made, run, tmp_path / "out")
    assert receipt.expected == "preserved" and apart(run, tmp_path / "out") <= 1e-6
    new = turnout.load(tmp_path / "out").config
    assert new.moe.num_experts == 12 and new.moe.router == becomes
    assert new.moe.expert_ffn(new.feed_forward).d_ff == (12 if how == "clone" else 4)
    found, old = tensors(tmp_path / "out"), tensors(run)
    name = "decoder.blocks.0.feed_forward.moe.experts.w_in"
    if how == "clone":
        assert torch.equal(found[name], old[name].repeat_interleave(3, 0))
    else:
        units = [old[name][e][:, 4 * part : 4 * part + 4] for e in range(4) for part in range(3)]
        assert torch.equal(found[name], torch.stack(units))


@pytest.mark.parametrize(("parts", "wider"), [(2, False), (3, True)])
def test_shares_of_narrow_weights_keep_the_function(parts, wider, tmp_path):
    """Three times a bfloat16 has no place in a bfloat16, twice has."""
    config = decoder(moe=sparse())
    run = turnout.save(built(config).bfloat16(), tmp_path / "run")
    receipt = operate(experts.split(config, parts), run, tmp_path / "out")
    assert receipt.expected == "preserved" and receipt.compared.logits <= 1e-6
    assert any("float32" in note for note in receipt.notes) == wider
    found = open_source(str(tmp_path / "out")).tensors
    dtypes = {name: found.planned(name).dtype for name in found.names}
    wide = {name for name, dtype in dtypes.items() if dtype == torch.float32}
    assert all(name.endswith("experts.w_out") for name in wide) and bool(wide) == wider
    assert open_source(str(run)).tensors.planned("embedding.weight").dtype == torch.bfloat16


def test_cloning_goes_back(tmp_path):
    """The command that the receipt names, as the operations that it means."""
    config = decoder(moe=sparse())
    run = saved(config, tmp_path / "run")
    receipt = operate(experts.clone(config, 2, True), run, tmp_path / "out")
    assert "choices" in receipt.back and "--k 2 && turnout" in receipt.back
    assert receipt.back.endswith("--experts 0,2,4,6")
    operate(Choices(2), tmp_path / "out", tmp_path / "fewer")
    fewer = turnout.load(tmp_path / "fewer").config
    operate(experts.keep_only(fewer, [0, 2, 4, 6]), tmp_path / "fewer", tmp_path / "back")
    old, new = tensors(run), tensors(tmp_path / "back")
    assert all(torch.equal(new[name], tensor) for name, tensor in old.items())
    assert turnout.load(tmp_path / "back").config.moe == config.moe


def test_clones_alone_change_the_function(tmp_path):
    config = decoder(moe=sparse())
    run = saved(config, tmp_path / "run")
    receipt = operate(experts.clone(config, 2, False), run, tmp_path / "out")
    assert receipt.expected == "changed" and receipt.compared.logits > 1e-3
    assert receipt.after.choices == 2
    noisy = operate(experts.clone(config, 2, True, 0.1), run, tmp_path / "noisy")
    assert noisy.expected == "changed"
    old, new = tensors(run), tensors(tmp_path / "noisy")
    name = "decoder.blocks.0.feed_forward.moe.experts.w_out"
    assert torch.equal(new[name][::2], old[name]) and not torch.equal(new[name][1::2], old[name])


def test_merging_is_the_mean_by_load(tmp_path):
    """Loads 1 3 0 4: experts 0 and 1 weigh 1/4 and 3/4; 2 and 3 weigh 0 and 1."""
    config = decoder(BIASED, sparse())
    run = saved(config, tmp_path / "run")
    groups, loads = for_all(config, [[0, 1], [2, 3]]), for_all(config, (1.0, 3.0, 0.0, 4.0))
    receipt = operate(experts.merge(config, groups, loads), run, tmp_path / "out")
    assert receipt.after.experts == (2, 2)
    old, new = tensors(run), tensors(tmp_path / "out")
    assert same_elsewhere(old, new)
    for name, tensor in by_expert(old).items():
        first = tensor[0] / 4 + 3 * tensor[1] / 4
        assert torch.allclose(new[name][0], first, rtol=1e-6, atol=1e-7)
        assert torch.equal(new[name][1], tensor[3])


def test_merging_experts_that_serve_nothing_counts_them_alike(tmp_path):
    config = decoder(moe=sparse())
    run = saved(config, tmp_path / "run")
    groups, loads = for_all(config, [[0], [1, 2, 3]]), for_all(config, (5.0, 0.0, 0.0, 0.0))
    operate(experts.merge(config, groups, loads), run, tmp_path / "out")
    name = "decoder.blocks.1.feed_forward.moe.experts.w_in"
    old, new = tensors(run)[name], tensors(tmp_path / "out")[name]
    assert torch.equal(new[0], old[0])
    assert torch.allclose(new[1], old[1:].mean(0), rtol=1e-6, atol=1e-7)


def test_merging_equal_experts_keeps_what_they_are(tmp_path):
    """Their rows of the router too: of probability p / 2 each, which become one of p; with one
    choice of renormalised weights that is the same function."""
    config = decoder(moe=sparse(2))
    run = saved(config, tmp_path / "run")
    cloned = operate(experts.clone(config, 2, True), run, tmp_path / "four")
    assert cloned.after.experts == (4, 4)
    operate(Choices(2), tmp_path / "four", tmp_path / "fewer")
    new = turnout.load(tmp_path / "fewer").config
    groups = for_all(new, [[0, 1], [2, 3]])
    operate(
        experts.merge(new, groups, for_all(new, (1.0, 2.0, 3.0, 4.0))),
        tmp_path / "fewer",
        tmp_path / "out",
    )
    old, found = tensors(run), tensors(tmp_path / "out")
    assert all(torch.equal(found[name], tensor) for name, tensor in old.items())


@pytest.mark.parametrize("of", [None, [1, 2]])
def test_growing_leaves_the_old_experts(of, tmp_path):
    config = decoder(BIASED, sparse())
    run = saved(config, tmp_path / "run")
    sources = None if of is None else for_all(config, of)
    receipt = operate(experts.grow(config, 3, sources), run, tmp_path / "out")
    assert receipt.expected == "changed" and receipt.after.experts == (7, 7)
    old, new = tensors(run), tensors(tmp_path / "out")
    for name, tensor in by_expert(old).items():
        assert torch.equal(new[name][:4], tensor)
        if of is not None:
            assert torch.equal(new[name][4:], tensor[[1, 2, 1]])
        elif "w_" in name or "router" in name:
            assert new[name][4:].std() > 0 and not torch.equal(new[name][4], new[name][5])
    assert receipt.back.endswith("--experts 0,1,2,3")
    back = experts.keep_only(turnout.load(tmp_path / "out").config, range(4))
    operate(back, tmp_path / "out", tmp_path / "back")
    again = tensors(tmp_path / "back")
    assert all(torch.equal(again[name], tensor) for name, tensor in old.items())


def test_experts_that_sleep_change_nothing_until_the_bias_wakes_them(tmp_path):
    config = decoder(moe=sparse(router=SigmoidTopKRouter(2, bias_rate=0.5)))
    run = saved(config, tmp_path / "run")
    grown = experts.grow(config, 2, for_all(config, [0]), asleep=True)
    receipt = operate(grown, run, tmp_path / "out")
    assert receipt.expected == "preserved" and receipt.compared.logits <= 1e-6
    model = turnout.load(tmp_path / "out")
    router = model.sparse_layers()["decoder.0.moe"].router
    # Biases begin at 0, those of the new ones 1 below; after three steps of 0.5 they are ahead.
    assert torch.equal(router.balancer.bias, torch.tensor([0.0, 0.0, 0.0, 0.0, -1.0, -1.0]))
    for _ in range(3):
        router.balancer.after_step(torch.tensor([9, 9, 9, 9, 0, 0]), 18)
    assert float(router.balancer.bias[4]) > float(router.balancer.bias[0])


def test_another_k(tmp_path):
    config = decoder(moe=sparse())
    run = saved(config, tmp_path / "run")
    receipt = operate(Choices(3), run, tmp_path / "out")
    assert receipt.compared.logits > 1e-4 and receipt.after.choices == 3
    assert receipt.after.active > receipt.before.active
    assert receipt.after.parameters == receipt.before.parameters
    old, new = tensors(run), tensors(tmp_path / "out")
    assert all(torch.equal(new[name], tensor) for name, tensor in old.items())
    operate(Choices(2), tmp_path / "out", tmp_path / "back")
    assert turnout.load(tmp_path / "back").config == config


def test_a_pyramid_grows_and_is_pruned(tmp_path):
    config = decoder(moe=sparse(4, pyramid=(2, 4)))
    run = saved(config, tmp_path / "run")
    grown = operate(experts.grow(config, 1, for_all(config, [0])), run, tmp_path / "more")
    assert grown.after.experts == (3, 5) and grown.back == ""
    assert turnout.load(tmp_path / "more").config.moe.pyramid == (3, 5)
    scores = {"decoder.0.moe": (1.0, 2.0), "decoder.1.moe": SCORES}
    pruned = operate(experts.prune(config, scores, 2, "load"), run, tmp_path / "fewer")
    assert pruned.after.experts == (2, 2)
    assert turnout.load(tmp_path / "fewer").config.moe.pyramid == ()


def test_a_switch_transformer_is_operated_on(tmp_path):
    config = two_stacks(moe=sparse(**SWITCH))
    run = saved(config, tmp_path / "run")
    receipt = operate(
        experts.prune(config, for_all(config, SCORES), 1, "load"), run, tmp_path / "a"
    )
    assert receipt.after.experts == (1, 1, 1)
    assert operate(experts.clone(config, 2, True), run, tmp_path / "b").expected == "preserved"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda c: experts.prune(c, for_all(c, SCORES), 0, "load"), "--keep = 0: must be from 2"),
        (lambda c: experts.prune(c, for_all(c, SCORES), 1, "load"), "choose fewer first"),
        (lambda c: experts.prune(c, for_all(c, SCORES), 5, "load"), "to 4, the experts of"),
        (lambda c: experts.keep_only(c, [0, 9]), "expert = 9: must be one of 0 to 3"),
        (lambda c: experts.keep_only(c, [0, 0]), "different numbers"),
        (lambda c: experts.reorder(c, for_all(c, [0, 1, 2, 2])), "--order 0,1,2,2: must name each"),
        (lambda c: experts.reorder(c, for_all(c, [0, 1, 2])), "--order 0,1,2: must name each"),
        (lambda c: experts.grow(c, 0, None), "--more = 0: must be at least 1"),
        (lambda c: experts.grow(c, 1, for_all(c, [4])), "expert = 4: must be one of 0 to 3"),
        (lambda c: experts.grow(c, 1, None, asleep=True), "--asleep: model.moe.router.kind"),
        (lambda c: experts.split(c, 5), "--parts 5: must be a divisor"),
        (lambda c: experts.split(c, 10**9), "--parts 1000000000: must be a divisor"),
        (lambda c: experts.split(c, 1), "--parts = 1: must be at least 2"),
        (lambda c: experts.clone(c, 10**9, False), "--copies = 1000000000: must be such that a"),
        (lambda c: experts.grow(c, 10**9, None), "--more = 1000000000: must be such that a layer"),
        (lambda c: experts.clone(c, 1, True), "--copies = 1: must be at least 2"),
        (lambda c: experts.clone(c, 2, True, -1.0), "--noise = -1.0: must be at least 0"),
        (lambda c: Choices(5), "moe.num_experts = 4: must be at least 5"),
        (lambda c: Choices(0), "--k = 0: must be at least 1"),
        (lambda c: Choices(2), "--k = 2: must be another number than now"),
    ],
)
def test_what_cannot_be_is_one_line(make, message, tmp_path):
    config = decoder(moe=sparse())
    run = saved(config, tmp_path / "run")
    with pytest.raises(UserError) as caught:
        operate(make(config), run, tmp_path / "out")
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (decoder(), "the model is dense"),
        (decoder(moe=sparse(router=LabelRouter(4))), "must be one with a row an expert"),
        (
            decoder(moe=sparse(router=TopKRouter(2, expert_groups=2, groups_kept=1))),
            "must be 1, or",
        ),
        (decoder(moe=sparse(attention="also")), "must be 'none' for surgery"),
    ],
)
def test_models_that_it_does_not_know_are_refused(config, message):
    with pytest.raises(UserError, match=message):
        experts.clone(config, 2, True)


def test_a_router_that_cannot_choose_copies_together_is_refused():
    router = turnout.config.routers.TopPRouter(0.5, 2)
    with pytest.raises(UserError, match="top_p' cannot choose 2 equal experts together"):
        experts.clone(decoder(moe=sparse(router=router)), 2, True)


def test_shared_experts_come_along_and_are_not_split(tmp_path):
    config = decoder(GATED, sparse(shared_experts=1, shared_gate=True))
    run = saved(config, tmp_path / "run")
    assert operate(experts.clone(config, 2, True), run, tmp_path / "out").expected == "preserved"
    with pytest.raises(UserError, match="must be 0 for splitting"):
        experts.split(config, 2)


def test_a_function_that_did_not_stay_is_not_written(tmp_path):
    """A pruning that says of itself that it keeps the function."""
    config = decoder(moe=sparse())
    run = saved(config, tmp_path / "run")
    kept = experts.reorder(config, for_all(config, [0, 1, 2, 3])).expectation
    pruned = replace(experts.keep_only(config, [0, 1, 3]), expectation=kept)
    with pytest.raises(UserError, match=r"the function was to stay .* nothing is written"):
        operate(pruned, run, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_a_target_that_is_there_is_left_alone(tmp_path):
    config = decoder(moe=sparse())
    run = saved(config, tmp_path / "run")
    before = sorted(Path(run).rglob("*"))
    with pytest.raises(UserError, match="is there already"):
        operate(experts.clone(config, 2, True), run, run)
    assert sorted(Path(run).rglob("*")) == before
