"""The way back that is printed leads to the router that there was, or none is printed."""

import shlex

import pytest

import turnout
from tests.surgery.models import decoder, saved, sparse
from turnout.config.errors import UserError
from turnout.config.routers import (
    InputJitter,
    NoisyTopKRouter,
    SigmoidTopKRouter,
    SwitchRouter,
    Top2Router,
    TopKRouter,
    TopPRouter,
)
from turnout.config.train import RunConfig
from turnout.surgery import experts
from turnout.surgery.choices import Choices
from turnout.surgery.layers import counts
from turnout.surgery.opened import open_source
from turnout.surgery.operate import Job


def after(surgery, config):
    """The configuration that an operation makes."""
    return surgery.run(RunConfig(config)).model


@pytest.mark.parametrize(
    ("router", "k", "back"),
    [
        (TopKRouter(2), 3, True),
        (TopKRouter(2, "raw", scale=2.0), 1, True),
        # With one choice weights are raw, and two raw ones are no renormalised ones.
        (TopKRouter(2), 1, False),
        (TopKRouter(2, "softmax_of_selected"), 1, False),
        (SigmoidTopKRouter(2), 1, False),
        (SigmoidTopKRouter(2), 3, True),
        (NoisyTopKRouter(2), 3, True),
        # Switch is top-1 with raw weights, in training as in evaluation.
        (SwitchRouter(), 3, True),
        (SwitchRouter(InputJitter(), bias=True), 2, True),
        # The second expert is random in training, which top-k is not.
        (Top2Router(), 3, False),
        (Top2Router(), 1, False),
        (Top2Router(second="all", second_in_evaluation="threshold"), 3, False),
        (Top2Router(second="all", second_in_evaluation="none"), 3, False),
        (Top2Router(second="all"), 3, True),
        (Top2Router(second="all"), 1, False),
    ],
)
def test_choices_go_back_where_the_router_does(router, k, back):
    config = decoder(moe=sparse(router=router))
    surgery = Choices(k)
    new = after(surgery, config)
    assert new.moe.router.active == k
    found = surgery.expected(config, new).back
    wanted = f"{{turnout}} surgery choices {{run}} --out {{out}} --k {router.active}"
    assert found == (wanted if back else "")


def test_an_option_that_changes_the_router_leaves_no_way_back():
    config = decoder(moe=sparse(router=TopKRouter(2)))
    other = decoder(moe=sparse(router=TopKRouter(3, scale=2.0)))
    assert Choices(3).expected(config, other).back == ""


def test_one_choice_has_raw_weights():
    for router in (TopKRouter(2), SigmoidTopKRouter(2), Top2Router()):
        found = after(Choices(1), decoder(moe=sparse(router=router))).moe.router
        assert (found.k, found.weights) == (1, "raw")


@pytest.mark.parametrize(
    ("router", "back"),
    [
        (TopKRouter(2), True),
        (SwitchRouter(), True),
        (SigmoidTopKRouter(2), True),
        (SigmoidTopKRouter(2, weights="raw"), False),  # whose scale is another
        (Top2Router(), False),
    ],
)
def test_clones_go_back_by_fewer_choices_and_then_fewer_experts(router, back):
    """Three copies of four experts, of which a token takes 2 x 3 = 6: four would not be enough."""
    config = decoder(moe=sparse(router=router))
    made = experts.clone(config, 3, True)
    k = router.active
    choices = f"{{turnout}} surgery choices {{run}} --out {{out}} --k {k}"
    prune = "{turnout} surgery prune {out} --out {out}-2 --experts 0,3,6,9"
    assert made.expectation.back == (f"{choices} && {prune}" if back else "")
    if back:
        cloned = after(made, config)
        if 3 * k > 4:
            with pytest.raises(UserError, match="choose fewer first"):
                experts.keep_only(cloned, [0, 3, 6, 9])
        fewer = after(Choices(k), cloned)
        again = after(experts.keep_only(fewer, [0, 3, 6, 9]), fewer)
        assert again.moe.num_experts == 4 and again.moe.router.active == k


def test_folders_are_quoted_and_the_program_is_called_as_it_was(tmp_path):
    config = decoder(moe=sparse())
    run = saved(config, tmp_path / "run")
    target = tmp_path / "it's a run"
    made = experts.reorder(config, {key: [2, 0, 3, 1] for key in counts(config)})
    job = Job(made, (open_source(str(run)),), {}, command="./turnout")
    receipt = job.planned().write(target, ["./turnout train --resume {out}"])
    words = shlex.split(receipt.back)
    assert words[:4] == ["./turnout", "surgery", "reorder", str(target)]
    assert words[words.index("--out") + 1] == f"{target}-back"
    assert shlex.split(receipt.next[0])[-1] == str(target)
    assert turnout.load(target).config == config


@pytest.mark.parametrize(
    ("make", "message"),
    [
        # The field that is wrong, and not one that is right.
        (
            lambda: experts.split(decoder(moe=sparse(router=TWO)), 2),
            "--parts: model.moe.router.second_in_evaluation = 'none': must be 'all'",
        ),
        (
            lambda: experts.clone(decoder(moe=sparse(decoder_router=TWO)), 2, True),
            "--split: model.moe.decoder_router.second_in_evaluation = 'none': must be 'all'",
        ),
        (
            lambda: experts.split(decoder(moe=sparse(router=TopPRouter())), 2),
            "--parts: model.moe.router.kind = 'top_p' cannot choose 2 equal experts together",
        ),
        (
            lambda: grown(SigmoidTopKRouter(2, bias_rate=0.0), asleep=True),
            "--asleep: model.moe.router.bias_rate = 0.0: must be above 0",
        ),
        (
            lambda: grown(TopKRouter(2), asleep=True),
            "--asleep: model.moe.router.kind = 'top_k': must be 'sigmoid_top_k'",
        ),
    ],
)
def test_the_field_that_is_wrong_is_named(make, message):
    with pytest.raises(UserError) as caught:
        make()
    assert message in str(caught.value) and "\n" not in str(caught.value)


TWO = Top2Router(second_in_evaluation="none")


def grown(router, **words):
    config = decoder(moe=sparse(router=router))
    return experts.grow(config, 1, {key: [0] for key in counts(config)}, **words)
