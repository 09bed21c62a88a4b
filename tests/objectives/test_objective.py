"""What the objective counts, weighs and reports."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from tests.moe.cases import ROUTERS
from tests.objectives.cases import ALL_ON, T5, DocumentGroup, RowsGroup, build, cut, run, sparse
from turnout import objectives
from turnout.config.losses import LossConfig
from turnout.config.routers import SwitchRouter, TopKRouter
from turnout.moe.losses import BALANCE_FORMS, LossSums, load_balancing_loss
from turnout.objectives import LanguageObjective, StackTotals, Totals
from turnout.objectives.scopes import linearised

# The eight sequences hold 12 + 12 + 3 + 10 + 1 + 11 + 6 + 12 = 67 tokens in 13 documents; the
# first token of each document is no target: 67 - 13 = 54.
TOKENS, DOCUMENTS, TARGETS = 67, 13, 54


def test_totals_by_hand():
    rows = Totals.count(cut(2), sparse(SwitchRouter(), None, RowsGroup()))
    assert rows == Totals(TARGETS, StackTotals(), StackTotals(TOKENS, 8), 4)
    documents = Totals.count(cut(8), sparse(SwitchRouter(), None, DocumentGroup()))
    assert documents.decoder == StackTotals(TOKENS, DOCUMENTS)
    both = Totals.count(cut(8, encoder=True), sparse(SwitchRouter(), None, RowsGroup(2)))
    assert both.encoder == both.stack("encoder") == StackTotals(TOKENS, 4)


def test_an_empty_row_is_no_group():
    (batch,) = cut(8)
    mask = batch.decoder.mask.clone()
    mask[2] = False
    emptied = replace(batch, decoder=replace(batch.decoder, mask=mask))
    totals = Totals.count([emptied], sparse(SwitchRouter(), None, RowsGroup()))
    assert totals.decoder == StackTotals(TOKENS - 3, 7)


def test_a_balanced_layer_reports_one():
    model = build(sparse(TopKRouter(4, "raw"), None, RowsGroup()))
    router = model.sparse_layers()["decoder.1.moe"].router
    torch.nn.init.zeros_(router.weight)
    # Equal probabilities; f counts first choices, which all tie and go to expert 0, but
    # sum_i f_i P_i = sum_i f_i / 4 = 1/4 whatever f is.
    terms = run(model, ALL_ON, cut(8)).terms
    assert terms["balance"] == pytest.approx(1.0)
    assert terms["router_z"] == pytest.approx(1.386294**2, rel=1e-5)  # (ln 4)^2
    assert terms["importance"] == pytest.approx(0.0, abs=1e-9)


def test_layers_are_summed_or_averaged():
    model = build(sparse(SwitchRouter(), None, RowsGroup()), T5)
    summed = run(model, ALL_ON, cut(8, encoder=True)).terms
    mean = run(model, replace(ALL_ON, layers="mean"), cut(8, encoder=True)).terms
    for name in ("balance", "router_z", "importance", "load", "entropy"):
        assert mean[name] == pytest.approx(summed[name] / 2)  # one sparse layer a stack
    assert mean["language"] == summed["language"]


def test_total_is_the_weighted_sum():
    model = build(sparse(SwitchRouter(), 1.0, RowsGroup()))
    step = run(model, ALL_ON, cut(8))
    expected = step.terms["language"] + sum(
        getattr(ALL_ON, name) * step.terms[name]
        for name in ("balance", "router_z", "importance", "load", "entropy", "head_z")
    )
    assert step.total == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("term", ["balance", "router_z", "importance", "load", "entropy"])
def test_one_coefficient_switches_a_term(term):
    """Alone with the term, the router's gradient differs; without any it is the language's."""
    model = build(sparse(ROUTERS["noisy_top_2"], None, RowsGroup()))
    off = LossConfig(balance=0.0, router_z=0.0)
    name = "decoder.blocks.1.feed_forward.moe.router.weight"
    without = run(model, off, cut(8)).gradients[name]
    with_term = run(model, replace(off, **{term: 0.1}), cut(8)).gradients[name]
    assert float((with_term - without).abs().max()) > 1e-6


def test_a_dense_model_has_zero_terms():
    model = build(sparse(SwitchRouter(), None, RowsGroup()))
    dense = objectives.build(ALL_ON, replace(model.config, moe=None))
    from turnout import models

    twin = models.build(model.config.dense_twin())
    twin.init_weights(0)
    batches = cut(4)
    reports = [dense(twin, batch, dense.totals(batches)) for batch in batches]
    assert all(report.layers == () for report in reports)
    assert float(sum(report.terms.balance for report in reports)) == 0.0


@pytest.mark.parametrize(
    ("scope", "parts", "passes"),
    [("group", 4, 0), ("batch", 1, 0), ("batch", 4, 4), ("previous", 4, 4)],
)
def test_the_counting_pass_runs_only_where_it_is_needed(scope, parts, passes):
    model = build(sparse(SwitchRouter(), None, RowsGroup()))
    objective = LanguageObjective(replace(ALL_ON, scope=scope), model.config)
    seen: list[int] = []
    sums = objective.prepare(model, cut(8 // parts), None, seen.append)
    assert seen == list(range(passes)) and (sums is not None) == (passes > 0)
    if sums is not None:
        assert objective.prepare(model, cut(2), sums, seen.append) is sums or scope == "batch"


def test_no_real_token_at_all():
    (batch,) = cut(8)
    nothing = torch.zeros_like(batch.target_mask)
    decoder = replace(batch.decoder, mask=nothing, segment=torch.zeros_like(batch.decoder.segment))
    for scope in ("group", "batch"):
        model = build(sparse(SwitchRouter(), 1.0, RowsGroup()))
        step = run(
            model,
            replace(ALL_ON, scope=scope),
            [replace(batch, decoder=decoder, target_mask=nothing)],
        )
        assert step.total == 0.0
        assert all(torch.isfinite(gradient).all() for gradient in step.gradients.values())


def test_the_variant_is_the_one_configured():
    # With k = 2 all choices count twice as much as their share: mixtral is 2 * deepseek.
    model = build(sparse(TopKRouter(2), None, RowsGroup()))
    one, two = (
        run(model, replace(ALL_ON, balance_variant=name), cut(8)).terms["balance"]
        for name in ("deepseek", "mixtral")
    )
    assert two == pytest.approx(2 * one, rel=1e-5)


def test_a_batch_wide_term_needs_the_step_s_sums():
    model = build(sparse(SwitchRouter(), None, RowsGroup()))
    objective = LanguageObjective(replace(ALL_ON, scope="batch"), model.config)
    batches = cut(4)
    with pytest.raises(ValueError, match=r"losses.scope = 'batch' over 2 micro-batches"):
        objective(model, batches[0], objective.totals(batches))


def test_sums_of_another_step_are_scaled_to_this_one():
    # phi = E sum f P; at: 10 tokens, f = P = (.8, .2). This step: 5 tokens, P = (.6, .4).
    # phi(at) + <c, S - at'> = E sum f_at P_now = 2 * (.8 * .6 + .2 * .4) = 1.12
    counts = torch.tensor([[8, 2]])
    at = LossSums(
        torch.tensor([10]), counts, counts, counts.double(), counts.double(), counts.double()
    )
    now = torch.tensor([[3.0, 2.0]])
    local = LossSums(torch.tensor([5]), counts, counts, now, now, now)
    form = BALANCE_FORMS["switch"]
    phi = partial(load_balancing_loss, choices=1, form=form)
    assert float(linearised(phi, local, at, 5)) == pytest.approx(1.12)


def test_the_head_s_z_term_is_a_mean_over_targets():
    model = build(sparse(SwitchRouter(), None, RowsGroup()))
    (batch,) = cut(8)
    output = model(batch)
    logits = output.head.logits(output.hidden)[batch.target_mask]
    expected = logits.logsumexp(-1).square().mean()
    found = run(model, ALL_ON, [batch]).terms["head_z"]
    assert found == pytest.approx(float(expected.detach()), rel=1e-5)
