"""A loss means the same thing however the batch is cut, padded, packed or recomputed."""

from dataclasses import replace
from itertools import product

import pytest
import torch

from tests.moe.cases import ROUTERS, relative_error
from tests.objectives.cases import (
    ALL_ON,
    MODERN,
    ROWS,
    SEGMENTS,
    T5,
    DocumentGroup,
    RowsGroup,
    Step,
    build,
    cut,
    part,
    run,
    sparse,
)
from turnout.config.errors import UserError
from turnout.config.routers import SwitchRouter, TopKRouter
from turnout.moe.losses import BALANCE_FORMS, LossSums, load_balancing_loss
from turnout.objectives import LanguageObjective, StepSums
from turnout.objectives.scopes import whole

TOLERANCE = 1e-5  # of each tensor's largest entry
GROUPS = {"row": RowsGroup(), "document": DocumentGroup()}


def assert_equal(found: Step, expected: Step) -> None:
    assert found.kept == expected.kept
    assert found.total == pytest.approx(expected.total, rel=TOLERANCE)
    for name, value in expected.terms.items():
        assert found.terms[name] == pytest.approx(value, rel=TOLERANCE, abs=1e-7), name
    assert found.gradients.keys() == expected.gradients.keys()
    for name, gradient in expected.gradients.items():
        assert relative_error(found.gradients[name], gradient) <= TOLERANCE, name


def previous_sums(model) -> StepSums:
    """The sums of some other step, of another number of tokens."""
    objective = LanguageObjective(replace(ALL_ON, scope="group"), model.config)
    batches = [part([[5, 3], [11], [8]], 50, 12)]
    return objective.collect([objective(model, batches[0], objective.totals(batches))])


# The routers whose every combination is in the fast tier; of the others one is there, the rest is
# slow: they differ in what they choose, not in how it is summed.
BROAD = {
    *("switch", "switch_jitter", "switch_dropout", "switch_sampled", "top_1", "top_2_raw", "top_2"),
    *("top_4_selected", "noisy_top_2", "top2_random", "ntlb", "reinforce"),
}


def combinations() -> list[object]:
    scopes = ("group", "batch", "previous")
    mark = pytest.mark.slow
    found = []
    for case in product(ROUTERS, (None, 1.0), GROUPS, scopes):
        fast = case[0] in BROAD or case[1:] == (1.0, "document", "batch")
        found.append(pytest.param(*case, marks=() if fast else mark))
    return found


@pytest.mark.parametrize(("router", "capacity", "group", "scope"), combinations())
def test_cuts_padding_and_recomputation_change_nothing(router, capacity, group, scope):
    moe = sparse(ROUTERS[router], capacity, GROUPS[group])
    model, losses = build(moe), replace(ALL_ON, scope=scope)
    previous = previous_sums(model) if scope == "previous" else None
    expected = run(model, losses, cut(8), previous)
    assert all(sum(kept) > 0 for kept in expected.kept)
    recomputed = build(moe, recompute=True)
    variants = [
        (model, cut(4)),
        (model, cut(1)),
        (recomputed, cut(8)),
        (recomputed, cut(2)),
        (model, cut(8, width=12, left=True)),
        (model, cut(4, width=19)),
        (model, cut(2, width=15, left=True)),
    ]
    for variant, batches in variants:
        assert_equal(run(variant, losses, batches, previous), expected)


@pytest.mark.parametrize("scope", ["group", "batch", "previous"])
@pytest.mark.parametrize("capacity", [None, 1.0])
def test_encoder_and_decoder(capacity, scope):
    moe = sparse(ROUTERS["switch_jitter"], capacity, RowsGroup())
    model, losses = build(moe, T5), replace(ALL_ON, scope=scope)
    expected = run(model, losses, cut(8, encoder=True))
    assert_equal(run(model, losses, cut(2, encoder=True)), expected)
    assert_equal(run(model, losses, cut(4, width=17, encoder=True)), expected)
    recomputed = build(moe, T5, recompute=True)
    assert_equal(run(recomputed, losses, cut(1, encoder=True)), expected)


@pytest.mark.parametrize("scope", ["group", "batch"])
def test_groups_of_two_rows(scope):
    model = build(sparse(TopKRouter(2), 1.0, RowsGroup(2)))
    losses = replace(ALL_ON, scope=scope)
    expected = run(model, losses, cut(8))
    assert_equal(run(model, losses, cut(2)), expected)
    assert_equal(run(model, losses, cut(4, width=16, left=True)), expected)
    with pytest.raises(UserError, match="1 rows cuts a routing group of 2 rows"):
        run(model, losses, cut(1))


def padded() -> list:
    """Every document in a row of its own, with the ids it has when packed."""
    batches = []
    for row, lengths in enumerate(ROWS):
        packed = part([lengths], row, 12)
        for document in range(len(lengths)):
            batches.append(_alone(packed, document + 1))
    return batches


def _alone(packed, number):
    """The batch with one document of its only row left, moved to the row's start."""
    keep = packed.decoder.segment[0] == number

    def moved(values):
        out = torch.zeros_like(values)
        out[0, : int(keep.sum())] = values[0][keep]
        return out

    stream = replace(
        packed.decoder,
        ids=moved(packed.decoder.ids),
        mask=moved(packed.decoder.mask),
        segment=moved(packed.decoder.mask.long()),
        position=moved(packed.decoder.position),
    )
    return replace(
        packed,
        decoder=stream,
        targets=moved(packed.targets),
        target_mask=moved(packed.target_mask),
    )


# Noise is keyed by row, and packing moves documents to other rows: routers without noise.
QUIET = ["switch", "top_2", "top_4_selected", "ntlb"]
COUPLED = ["expert_choice", "expert_choice_capped", "base", "sinkhorn"]


@pytest.mark.parametrize(
    ("router", "scope"),
    [*((router, scope) for router in QUIET for scope in ("group", "batch"))]
    # Decisions over whole groups are the same only where the groups are, as here.
    + [(router, "batch") for router in COUPLED],
)
@pytest.mark.parametrize("capacity", [None, 1.0])
def test_packed_equals_padded_for_document_groups(router, capacity, scope):
    model = build(sparse(ROUTERS[router], capacity, DocumentGroup()))
    losses = replace(ALL_ON, scope=scope)
    assert_equal(run(model, losses, padded()), run(model, losses, cut(4)))


@pytest.mark.parametrize("router", QUIET)
def test_packed_equals_padded_dropless_for_batch_scope(router):
    model = build(sparse(ROUTERS[router], None, RowsGroup()))
    losses = replace(ALL_ON, scope="batch")
    assert_equal(run(model, losses, padded()), run(model, losses, cut(4)))


def domain_sorted() -> list:
    """Four micro-batches, each of one domain: a text that repeats one token."""
    batches = cut(2)
    for number, batch in enumerate(batches):
        batch.decoder.ids[batch.decoder.mask] = 1 + 9 * number
    return batches


def test_averaging_micro_batch_losses_is_another_loss():
    """What other systems do: each micro-batch its own balance loss, then the mean."""
    model = build(sparse(SwitchRouter(), None, RowsGroup()))
    losses = replace(ALL_ON, scope="batch", importance=0.0, load=0.0)
    batches = domain_sorted()
    exact = run(model, losses, batches)
    form = BALANCE_FORMS["switch"]

    def balance(sums):
        return load_balancing_loss(sums, choices=1, form=form).sum()

    own = [whole(LossSums.of(model(batch).layers[0])) for batch in batches]
    averaged = sum(balance(sums) for sums in own) / len(own)
    direct = balance(StepSums.collect([model(batch).layers for batch in batches]).layers[0])
    assert exact.terms["balance"] == pytest.approx(float(direct), rel=1e-6)
    assert float(averaged.detach()) > 1.3 * float(direct)

    weight = model.sparse_layers()["decoder.1.moe"].router.weight
    (wrong,) = torch.autograd.grad(averaged, weight)
    only_balance = replace(losses, router_z=0.0, head_z=0.0, balance=1.0)
    none = replace(only_balance, balance=0.0)
    name = "decoder.blocks.1.feed_forward.moe.router.weight"
    with_balance, without = (run(model, on, batches).gradients[name] for on in (only_balance, none))
    assert relative_error(wrong, with_balance - without) > 0.3


def test_the_linearised_gradient_is_the_gradient_of_the_whole():
    """One micro-batch, where autograd gives the gradient of phi itself."""
    model = build(sparse(TopKRouter(2), 1.0, RowsGroup()))
    batches = cut(8)
    stats = model(batches[0]).layers[0]
    sums = whole(LossSums.of(stats))
    form = BALANCE_FORMS["switch"]
    value = load_balancing_loss(sums, choices=2, form=form).sum()
    weight = model.sparse_layers()["decoder.1.moe"].router.weight
    (expected,) = torch.autograd.grad(value, weight)
    on = replace(ALL_ON, scope="batch", balance=1.0, importance=0.0, load=0.0, router_z=0.0)
    name = "decoder.blocks.1.feed_forward.moe.router.weight"
    for size in (8, 2):
        found = (
            run(model, on, cut(size)).gradients[name]
            - run(model, replace(on, balance=0.0), cut(size)).gradients[name]
        )
        assert relative_error(found, expected.float()) < 1e-4  # a difference of two gradients


def test_segments_bound():
    assert max(len(row) for row in ROWS) <= SEGMENTS and MODERN.num_layers == 2
