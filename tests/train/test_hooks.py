"""What the displays show, from plain values."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from turnout.config import presets
from turnout.moe.stats import LayerStats, RouterStats
from turnout.train.hooks.base import End, Start
from turnout.train.hooks.figures import Rate, duration
from turnout.train.hooks.live import LiveDisplay
from turnout.train.hooks.plain import PlainLines
from turnout.train.report import Evaluation, Event, StepReport, layer_reports


def _stats(assigned: list[int], kept: list[int], choices: int = 1) -> LayerStats:
    experts, tokens = len(assigned), sum(assigned) // choices
    zero = torch.zeros(1, experts)
    return LayerStats(
        name="decoder.1.moe",
        stack="decoder",
        choices=choices,
        active=1,
        router=RouterStats(
            tokens=torch.tensor([tokens]),
            assigned=torch.tensor([assigned]),
            first_choice=torch.tensor([assigned]),
            probability=zero,
            weight=zero,
            load=zero,
            z=torch.zeros(1),
            entropy=torch.tensor([0.5 * tokens]),
            top_probability=torch.zeros(1),
        ),
        kept=torch.tensor([kept]),
        unrouted=torch.tensor([tokens - sum(kept)]),
        extra=torch.zeros(1),
    )


def _report(step: int) -> StepReport:
    # Two micro-batches: assigned (6, 2) + (4, 0) = (10, 2) of 12; kept (4, 2) + (4, 0) = 10.
    layers = layer_reports([(_stats([6, 2], [4, 2]),), (_stats([4, 0], [4, 0]),)])
    return StepReport(
        step=step,
        loss=1.5,
        bits=2.164,
        terms={"language": 1.5},
        learning_rate=0.1,
        gradient_norm=1.0,
        targets=12,
        tokens=12 * step,
        tokens_per_second=1234.4,
        layers=layers,
    )


def test_layers_add_over_micro_batches() -> None:
    report = _report(1)
    (layer,) = report.layers
    assert layer.assigned == (10, 2)
    assert layer.balance == pytest.approx(10 / 6)  # largest 10, mean 12 / 2
    assert layer.dropped == pytest.approx(1 - 10 / 12)
    assert layer.unrouted == 2
    assert layer.entropy == pytest.approx(0.5)
    assert report.dropped == layer.dropped
    assert report.balance == layer.balance


def test_a_declined_candidate_is_no_drop() -> None:
    # Two candidates a token, one of them used: 4 tokens name 8, want 4, keep 4.
    (layer,) = layer_reports([(_stats([4, 4], [2, 2], choices=2),)])
    assert layer.wanted == 4
    assert layer.dropped == 0.0


def test_experts_that_choose_drop_nothing() -> None:
    # Four tokens and one expert each on average. In a short group the experts take 8 all the
    # same; slots rounded down leave 3.
    for taken in ([4, 4], [1, 2]):
        stats = _stats(taken, taken, choices=2)
        tokens = replace(stats.router, tokens=torch.tensor([4]))
        (layer,) = layer_reports([(replace(stats, router=tokens),)])
        assert layer.wanted == sum(taken)
        assert layer.dropped == 0.0


def test_a_dense_model_has_even_balance_and_drops_nothing() -> None:
    report = replace(_report(1), layers=layer_reports([(), ()]))
    assert (report.balance, report.dropped) == (1.0, 0.0)


def test_time_left_follows_the_pace_of_this_process() -> None:
    # Resumed at 10 of 30: 5 steps in 20 s are 4 s each, 15 to go.
    assert Rate(10, 30, started=100.0).left(15, now=120.0) == pytest.approx(60.0)
    assert [duration(s) for s in (0.4, 75.0, 3671.0)] == ["0:00", "1:15", "1:01:11"]


def test_plain_lines() -> None:
    lines: list[str] = []
    hook = PlainLines(lines.append, every=1e9)
    run = presets.run("switch_demo")
    run = replace(run, train=replace(run.train, steps=3))
    hook.on_start(Start(run, 0, ("header",)))
    hook.on_step(_report(1))
    hook.on_step(_report(2))
    hook.on_event(Event(2, "skip", "language is nan"))
    hook.on_event(Event(2, "alarm", "dead: 1 of 2", "decoder.1.moe"))
    hook.on_step(_report(3))
    hook.on_evaluate(
        Evaluation(3, 1.25, 1.8034, 10, 9, {"balance": 1.1, "load": 0.0}, 1.0, 0.0, 0.1)
    )
    hook.on_save(3, Path("x/step-00000003"))
    hook.on_end(End(3, True, None))
    assert lines[0] == "header"
    assert lines[1].startswith("step 1/3 | loss 1.500 | 2.164 bits/byte | 1,234 tokens/s | ")
    assert "dropped 16.7% | balance 1.67 (max/mean load)" in lines[1]
    assert lines[2] == "step 2: skip: language is nan"
    assert lines[3] == "step 2: alarm in decoder.1.moe: dead: 1 of 2"
    assert lines[4].startswith("step 3/3")  # the last step is always shown
    assert lines[5] == "step 3: validation loss 1.2500, 1.8034 bits/byte (balance 1.100)"
    assert lines[6] == "step 3: saved x/step-00000003"
    assert len(lines) == 7


def test_the_live_display_shows_the_same_figures() -> None:
    console = Console(force_terminal=True, width=120, record=True)
    hook = LiveDisplay(console)
    run = presets.run("switch_demo")
    hook.on_start(Start(run, 0, ("header [not markup]",)))
    hook.on_step(_report(1))
    hook.on_event(Event(1, "skip", "language is [nan]"))
    hook.on_evaluate(Evaluation(1, 1.25, 1.8034, 10, 9, {}, 1.0, 0.0, 0.1))
    hook.on_save(1, Path("x"))
    hook.on_end(End(1, False, None))
    text = console.export_text()
    for part in (
        "header [not markup]",
        "loss 1.500",
        "1/1000 steps",
        "left",
        "skip: language is [nan]",
        "saved x",
    ):
        assert part in text.replace(f"{run.train.steps}", "1000")
