"""Which weights change: by words and patterns, and not a bit of the others."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from turnout import models
from turnout.config import presets
from turnout.config.errors import ConfigError, UserError
from turnout.config.optimizers import AdafactorConfig, AdamWConfig
from turnout.config.routers import SigmoidTopKRouter
from turnout.config.train import RunConfig
from turnout.models.base import Model
from turnout.train.header import run_header
from turnout.train.session import Session, open_session
from turnout.train.state import model_tensors
from turnout.train.trained import (
    choose_trained,
    measured_loads,
    resolve_top,
    wants_loads,
)
from turnout.train.trainer import Trainer

LAYER = "decoder.blocks.1.feed_forward.moe"


def model() -> Model:
    return models.build(presets.run("switch_tiny").model, device="meta")


def test_words_name_the_parts_of_a_model() -> None:
    every = {name for name, _ in model().named_parameters()}

    def chosen(*words: str) -> set[str]:
        return set(choose_trained(model(), words).names)

    experts, router = chosen("experts"), chosen("router")
    assert {name for name in every if ".experts." in name} == experts
    assert {name for name in every if name.endswith("router.weight")} == router
    assert chosen("all") == every
    assert chosen("non-experts") == every - experts
    attention = chosen("attention")
    assert all("self_attention" in name for name in attention)
    ffn = chosen("ffn")
    assert experts < ffn
    assert "decoder.blocks.0.feed_forward.network.w_in" in ffn
    assert not ffn & (router | attention)
    assert "decoder.blocks.0.feed_forward.norm.weight" not in ffn
    assert chosen("router", "head.*") == router | {"head.weight"}


def test_requires_grad_follows_the_choice_and_is_taken_back() -> None:
    subject = model()
    choose_trained(subject, ["router"])
    assert [n for n, p in subject.named_parameters() if p.requires_grad] == [
        f"{LAYER}.router.weight",
        "decoder.blocks.3.feed_forward.moe.router.weight",
    ]
    choose_trained(subject, ["all"])
    assert all(p.requires_grad for p in subject.parameters())


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("expert", "'expert': must be one of all, non-experts, router, experts, attention, ffn"),
        ("encoder.*", "a pattern of names"),
        ("decoder.blocks.1.*experts*[8]", "must name experts below 8"),
        ("head.*[0]", "head.weight is not of stacked experts"),
    ],
)
def test_what_names_nothing_is_refused(word: str, says: str) -> None:
    with pytest.raises(UserError, match=says.replace("[", r"\[").replace("*", r"\*")):
        choose_trained(model(), [word])


def test_a_dense_model_has_no_router() -> None:
    dense = models.build(presets.run("switch_tiny", dense=True).model, device="meta")
    with pytest.raises(UserError, match="'router': the model has none"):
        choose_trained(dense, ["router"])


def test_the_most_used_experts_by_hand() -> None:
    loads = {"decoder.1.moe": [5, 9, 9, 0, 1, 2, 7, 3], "decoder.3.moe": [1] * 8}
    # 25% of 8 experts are 2: of the first layer 1 and 2 with 9 each, of the second the lowest.
    assert wants_loads(["router", "experts:top25%"])
    assert resolve_top(model(), ["router", "experts:top25%"], loads) == (
        "router",
        f"{LAYER}.experts.*[1,2]",
        "decoder.blocks.3.feed_forward.moe.experts.*[0,1]",
    )
    # A tenth of 8 is 0.8: one expert, rounded up.
    assert resolve_top(model(), ["experts:top10%"], loads)[0] == f"{LAYER}.experts.*[1]"
    with pytest.raises(UserError, match="above 0 and at most 100"):
        resolve_top(model(), ["experts:top0%"], loads)
    with pytest.raises(UserError, match="no sparse layer"):
        resolve_top(model(), ["experts:top5%"], {})


def test_patterns_of_one_expert_add_up() -> None:
    words = [f"{LAYER}.experts.w_in[1]", f"{LAYER}.experts.w_in[3]"]
    assert choose_trained(model(), words).still == {f"{LAYER}.experts.w_in": (0, 2, 4, 5, 6, 7)}
    # A pattern without experts is all of them.
    assert choose_trained(model(), [*words, "experts"]).still == {}


def trained(run: RunConfig, *words: str, steps: int = 3) -> tuple[Session, dict[str, Tensor]]:
    """A session after some steps, and the weights before them."""
    session = open_session(replace(run, train=replace(run.train, trained=words)))
    before = {name: t.detach().clone() for name, t in model_tensors(session.state.model).items()}
    Trainer.of(session).run(until=steps)
    return session, before


@pytest.mark.parametrize("words", [("router",), ("attention",), ("experts",), ("non-experts",)])
@pytest.mark.parametrize("optimizer", [AdamWConfig(weight_decay=0.1), AdafactorConfig(1e-2)])
def test_what_does_not_train_keeps_its_bits(
    tiny_run: RunConfig, words: tuple[str, ...], optimizer: AdamWConfig | AdafactorConfig
) -> None:
    session, before = trained(replace(tiny_run, optimizer=optimizer), *words)
    changed = {
        name
        for name, tensor in model_tensors(session.state.model).items()
        if not torch.equal(tensor, before[name])
    }
    assert changed == session.trained.names & before.keys()


@pytest.mark.parametrize("optimizer", [AdamWConfig(), AdafactorConfig(1e-2)])
def test_experts_of_a_stack_that_do_not_train_keep_their_bits(
    tiny_run: RunConfig, optimizer: AdamWConfig | AdafactorConfig
) -> None:
    session, before = trained(replace(tiny_run, optimizer=optimizer), "experts:top50%")
    assert all("[" in word for word in session.config.train.trained)  # as a checkpoint holds it
    assert session.trained.still
    for name, tensor in model_tensors(session.state.model).items():
        same = [torch.equal(a, b) for a, b in zip(tensor, before[name], strict=True)]
        if name in session.trained.still:
            # 2 of 4 experts train; one that got no token in three steps stays as well.
            assert [i for i, equal in enumerate(same) if equal] >= list(session.trained.still[name])
            assert all(same[expert] for expert in session.trained.still[name])
            assert not all(same)
        else:
            assert all(same), name


def test_weight_decay_would_move_still_experts_and_is_refused(tiny_run: RunConfig) -> None:
    run = replace(tiny_run, optimizer=AdamWConfig(weight_decay=0.1))
    run = replace(run, train=replace(run.train, trained=("experts:top50%",)))
    with pytest.raises(ConfigError, match=r"optimizer.weight_decay = 0.1: must be 0 where only"):
        open_session(run)


def test_the_header_says_what_is_frozen(tiny_run: RunConfig) -> None:
    run = replace(tiny_run, train=replace(tiny_run.train, trained=("experts",)))
    header = "\n".join(run_header(open_session(run)))
    assert "trained    experts: " in header
    assert "routers OFF (frozen)" in header
    assert "(the router is frozen)" in header
    assert "trained " not in "\n".join(run_header(open_session(tiny_run)))


def test_loads_are_counted_in_evaluation(tiny_run: RunConfig) -> None:
    session = open_session(tiny_run)
    batches = session.data.micro_batches(0)
    session.state.model.train()
    loads = measured_loads(session.state.model, batches)
    assert session.state.model.training
    tokens = sum(int(batch.decoder.mask.sum()) for batch in batches)
    name = next(name for name in loads if name.startswith("decoder"))
    assert sum(loads[name]) == tokens  # top-1 and dropless: each token once


def test_a_choice_survives_a_checkpoint(tiny_run: RunConfig, tmp_path) -> None:  # type: ignore[no-untyped-def]
    run = replace(tiny_run, train=replace(tiny_run.train, trained=("experts:top50%", "router")))
    Trainer.of(open_session(run), tmp_path / "whole").run()
    Trainer.of(open_session(run), tmp_path / "cut").run(until=3)
    from turnout.train.session import saved_config

    saved = saved_config(tmp_path / "cut")
    assert not wants_loads(saved.train.trained)
    session = open_session(saved, tmp_path / "cut")
    Trainer.of(session, tmp_path / "cut").run()
    whole = open_session(saved_config(tmp_path / "whole"), tmp_path / "whole")
    for name, tensor in model_tensors(whole.state.model).items():
        assert torch.equal(tensor, model_tensors(session.state.model)[name]), name


def test_the_bias_of_a_frozen_router_stays(tiny_run: RunConfig) -> None:
    moe = replace(tiny_run.model.moe, router=SigmoidTopKRouter(2))
    run = replace(tiny_run, model=replace(tiny_run.model, moe=moe))
    run = replace(run, losses=run.losses.without_router())
    session, before = trained(run, "attention")
    biases = [name for name in before if name.endswith("balancer.bias")]
    assert biases
    after = model_tensors(session.state.model)
    assert all(torch.equal(after[name], before[name]) for name in biases)
    moving, start = trained(run, "all")
    now = model_tensors(moving.state.model)
    assert not all(torch.equal(now[name], start[name]) for name in biases)
