"""The loss against a teacher: by hand, against torch's own, and its gradient."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.objectives.cases import ALL_ON, build, cut, sparse
from turnout.config.moe import RowsGroup
from turnout.config.routers import SwitchRouter
from turnout.data.batch import Batch
from turnout.models.base import Model
from turnout.objectives import LanguageObjective, Lesson
from turnout.objectives.soft_targets import (
    Online,
    SoftTargets,
    Teacher,
    Top,
    at_targets,
    soft_loss,
)


def sample() -> tuple[Model, Model, Batch]:
    """A student, a teacher and what both read."""
    moe = sparse(SwitchRouter(), None, RowsGroup(1))
    student, teacher = build(moe), build(moe)
    teacher.init_weights(11)
    return student.eval(), teacher.eval(), cut(8)[0]


def test_two_outcomes_by_hand() -> None:
    # p = (1/2, 1/2), q = (3/4, 1/4): KL = 1/2 log(2/3) + 1/2 log 2 = log(2 / sqrt 3) = 0.143841.
    logits = torch.tensor([[math.log(3.0), 0.0]])
    top = Top(torch.tensor([[0, 1]]), torch.tensor([[0.5, 0.5]]).log())
    assert float(top.divergence(logits, slice(0, 1))) == pytest.approx(math.log(2 / math.sqrt(3)))


def test_what_the_best_tokens_leave_is_one_outcome() -> None:
    # q = (1/2, 1/4, 1/4); the teacher says 0 with 1/2 and leaves 1/2, as q does: nothing is apart.
    logits = torch.tensor([[0.5, 0.25, 0.25]]).log()
    same = Top(torch.tensor([[0]]), torch.tensor([[0.5]]).log())
    assert float(same.divergence(logits, slice(0, 1))) == pytest.approx(0.0, abs=1e-6)
    # With 1/4 for token 0: 1/4 log((1/4) / (1/2)) + 3/4 log((3/4) / (1/2)) = 0.130812.
    other = Top(torch.tensor([[0]]), torch.tensor([[0.25]]).log())
    expected = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert float(other.divergence(logits, slice(0, 1))) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_whole_distribution_against_torch(temperature: float) -> None:
    student, teacher, batch = sample()
    output, theirs = student(batch), teacher(batch)
    mask = batch.target_mask
    log_q = F.log_softmax(output.head.logits(output.hidden)[mask] / temperature, -1)
    log_p = F.log_softmax(theirs.head.logits(theirs.hidden)[mask] / temperature, -1)
    expected = temperature**2 * F.kl_div(log_q, log_p, reduction="sum", log_target=True)
    found = soft_loss(output, batch, Online(teacher, temperature))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_every_token_kept_is_the_whole_distribution() -> None:
    student, teacher, batch = sample()
    theirs = teacher(batch)
    log_p = theirs.head.logits(at_targets(theirs.hidden, batch)).log_softmax(-1).detach()
    best = log_p.topk(log_p.shape[1])

    class Kept(Teacher):
        def targets(self, batch: Batch) -> SoftTargets:
            return Top(best.indices, best.values)

    output = student(batch)
    whole = soft_loss(output, batch, Online(teacher, 1.0))
    torch.testing.assert_close(soft_loss(output, batch, Kept()), whole, rtol=1e-5, atol=1e-5)


def test_a_student_like_its_teacher_has_nothing_to_learn() -> None:
    student, _, batch = sample()
    moe = sparse(SwitchRouter(), None, RowsGroup(1))
    twin = build(moe).eval()
    assert float(soft_loss(student(batch), batch, Online(twin, 1.0)).detach()) == pytest.approx(
        0, abs=1e-4
    )


def test_total_and_gradient_are_the_mixture() -> None:
    """Total = 0.75 hard + 0.25 soft, over targets; every gradient is that of the two, composed."""
    student, teacher, batch = sample()
    losses = replace(ALL_ON, head_z=0.01)
    lesson = Lesson(Online(teacher, 1.0), soft=0.25, until=1.0)
    plain = LanguageObjective(losses, student.config)
    taught = LanguageObjective(losses, student.config, lesson=lesson)
    totals = plain.totals([batch])
    alone = plain(student, batch, totals)
    report = taught(student, batch, totals)
    assert float(report.terms.soft) > 0
    assert float(report.terms.language) == pytest.approx(float(alone.terms.language))
    expected = (
        float(alone.total.detach())
        - 0.25 * float(alone.terms.language)
        + 0.25 * float(report.terms.soft)
    )
    assert float(report.total.detach()) == pytest.approx(expected, rel=1e-5)

    found = gradients(student, report.total)
    output = student(batch)
    hard = gradients(student, plain(student, batch, totals).total)
    soft = gradients(student, soft_loss(output, batch, lesson.teacher) / totals.targets)
    output = student(batch)
    nats = output.head.cross_entropy(output.hidden, batch.targets, batch.target_mask).total
    text = gradients(student, nats / totals.targets)
    for name, grad in found.items():
        composed = hard[name] - 0.25 * text[name] + 0.25 * soft[name]
        torch.testing.assert_close(grad, composed, rtol=1e-4, atol=1e-5)


def test_after_its_share_of_the_run_the_text_alone_teaches() -> None:
    student, teacher, batch = sample()
    lesson = Lesson(Online(teacher, 1.0), soft=0.25, until=0.5)
    objective = LanguageObjective(ALL_ON, student.config, lesson=lesson)
    totals = objective.totals([batch])
    student.train()
    early = objective(student, replace(batch, progress=0.4), totals)
    late = objective(student, replace(batch, progress=0.5), totals)
    assert float(early.terms.soft) > 0
    assert float(late.terms.soft) == 0
    student.eval()  # an evaluation says how far the two are apart, whenever it is
    assert float(objective(student, replace(batch, progress=1.0), totals).terms.soft) > 0


def test_no_gradient_reaches_the_teacher() -> None:
    student, teacher, batch = sample()
    soft_loss(student(batch), batch, Online(teacher, 1.0)).backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert not any(p.requires_grad for p in teacher.parameters())


def test_a_batch_without_targets_says_nothing() -> None:
    student, teacher, batch = sample()
    empty = replace(batch, target_mask=torch.zeros_like(batch.target_mask))
    assert float(soft_loss(student(empty), empty, Online(teacher, 1.0))) == 0.0


def test_the_cut_of_a_batch_does_not_matter() -> None:
    student, teacher, _ = sample()
    lesson = Lesson(Online(teacher, 1.0), soft=0.25, until=1.0)
    objective = LanguageObjective(ALL_ON, student.config, lesson=lesson)
    found = []
    for size in (8, 2, 1):
        batches = cut(size)
        totals, sums = objective.totals(batches), objective.prepare(student, batches)
        reports = [objective(student, batch, totals, sums) for batch in batches]
        total = torch.stack([report.total for report in reports]).sum()
        found.append((float(total.detach()), gradients(student, total)))
    for total, grads in found[1:]:
        assert total == pytest.approx(found[0][0], rel=1e-5)
        for name, grad in grads.items():
            torch.testing.assert_close(grad, found[0][1][name], rtol=1e-4, atol=1e-5)


def gradients(model: Model, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
