"""Numbers and options that cannot be meant are one line, before anything is built."""

import math

import pytest

from tests.surgery.models import decoder, operate, saved, sparse
from tests.surgery.test_domains import operate as planned_and_written
from tests.surgery.test_domains import run_of
from turnout.cli.surgery import _next
from turnout.cli.surgery_options import _numbers
from turnout.config.errors import UserError
from turnout.config.routers import LabelRouter
from turnout.config.train import RunConfig
from turnout.surgery import experts
from turnout.surgery.domains import add_domain
from turnout.surgery.layers import counts
from turnout.surgery.opened import open_source
from turnout.surgery.operate import Job
from turnout.surgery.upcycle import Sparse, Upcycle

SPARSE = decoder(moe=sparse())
LABELLED = decoder(moe=sparse(router=LabelRouter(3)))
FIRST = {key: [0] for key in counts(SPARSE)}


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
@pytest.mark.parametrize(
    ("option", "make"),
    [
        ("--noise", lambda x: experts.clone(SPARSE, 2, True, x)),
        ("--noise", lambda x: experts.grow(SPARSE, 1, FIRST, x)),
        ("--router-std", lambda x: experts.grow(SPARSE, 1, None, router_std=x)),
        ("--noise", lambda x: add_domain(LABELLED, 0, x)),
        ("--noise", lambda x: Upcycle(Sparse(4), noise=x).run(RunConfig(decoder()))),
        ("--router-std", lambda x: Sparse(4, router_std=x)),
    ],
)
def test_deviations_are_finite(option, make, value):
    with pytest.raises(UserError) as caught:
        make(value)
    assert str(caught.value) == f"{option} = {value}: must be at least 0 and finite"


def test_many_experts_are_refused_before_they_are_listed():
    with pytest.raises(UserError, match=r"--experts = 1000000000: must be such that a layer has"):
        Sparse(10**9)
    with pytest.raises(
        UserError, match=r"--experts = 40000: must be .* 65,536 experts, not 80,000"
    ):
        Sparse(40_000, split=2)


def test_noise_goes_with_copies():
    with pytest.raises(
        UserError, match=r"--noise 0.1: goes with copies; the experts of --of fresh"
    ):
        experts.grow(SPARSE, 1, None, 0.1)


@pytest.mark.parametrize("text", ["\u00b2", "\u0663", "1,", "9" * 5000])
def test_numbers_are_digits(text):
    with pytest.raises(UserError, match="must be numbers with commas between them"):
        _numbers("--of", text)


@pytest.mark.parametrize(
    "options", [{"lora.rank": "2"}, {"start.path": "x"}, {"train.trained": "experts"}]
)
def test_options_of_training_are_refused(options, tmp_path):
    run = saved(SPARSE, tmp_path / "run")
    made = experts.reorder(SPARSE, {key: [1, 0, 2, 3] for key in counts(SPARSE)})
    with pytest.raises(UserError, match=r"goes with training, as in `turnout finetune`"):
        operate(made, run, tmp_path / "out", **options)
    with pytest.raises(UserError, match=r"--distillation.soft: goes with training"):
        operate(made, run, tmp_path / "out", **{"distillation.soft": "0.5"})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"model.moe.router.scale": "3.0"}, r"leave out --model\.moe\.router\.scale, which can"),
        # Half of what experts add: evaluation multiplies by what masking leaves.
        ({"model.moe.output_masking": "0.5"}, ""),
    ],
)
def test_an_option_that_changes_the_function_is_named(options, why, tmp_path):
    run = saved(SPARSE, tmp_path / "run")
    made = experts.reorder(SPARSE, {key: [1, 0, 2, 3] for key in counts(SPARSE)})
    if why:
        with pytest.raises(UserError, match=why) as caught:
            operate(made, run, tmp_path / "out", **options)
        assert "tie" not in str(caught.value)
    else:
        receipt = operate(made, run, tmp_path / "out", **options)
        assert receipt.expected == "changed" and "output_masking" in receipt.why
        assert receipt.compared.logits > 1e-3


def test_ties_are_named_where_the_difference_is_small():
    from dataclasses import replace

    from turnout.surgery.compare import Comparison
    from turnout.surgery.operate import _broken

    found = Comparison("rows", 4, "float64", 5e-4, 0.0, None, None, None, None)

    class Receipt:
        operation, why = "reorder", "so"

    assert "choices tie" in _broken(Receipt, found, {})
    assert _broken(Receipt, replace(found, logits=0.2), {}).endswith("nothing is written")
    assert "leave out --model.x" in _broken(Receipt, found, {"model.x": "1", "train.steps": "2"})


def test_a_mean_takes_noise(tmp_path):
    """Over the mean of three experts: 96 draws of 0.1 of its root mean square, within 30 %."""
    from tests.surgery.test_domains import experts_of

    run = run_of(3, 3, tmp_path / "run")
    planned_and_written(add_domain(LABELLED3, None, 0.1), run, tmp_path / "more")
    mean = experts_of(run).mean(0)
    added = experts_of(tmp_path / "more")[3] - mean
    found = float(added.square().mean().sqrt() / mean.square().mean().sqrt())
    assert found == pytest.approx(0.1, rel=0.3)


LABELLED3 = decoder(moe=sparse(3, router=LabelRouter(3)))


def test_text_without_labels_is_not_proposed(tmp_path):
    run = run_of(3, 3, tmp_path / "run")
    job = Job(add_domain(LABELLED3, 1), (open_source(str(run)),), {})
    assert not any("finetune" in command for command in _next(job.planned(), "drop"))
    plain = saved(SPARSE, tmp_path / "plain")
    made = experts.reorder(SPARSE, {key: [1, 0, 2, 3] for key in counts(SPARSE)})
    job = Job(made, (open_source(str(plain)),), {})
    assert any("finetune {out} --data" in command for command in _next(job.planned(), "drop"))
