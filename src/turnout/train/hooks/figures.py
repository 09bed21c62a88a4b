"""How the figures of a run read in one line; shared by the live display and the plain lines."""

from turnout.config.train import RunConfig, SpanConfig
from turnout.train.report import Evaluation, Event, StepReport


def bits_unit(run: RunConfig) -> str:
    """Bits per byte of text; for span corruption the bytes are the hidden ones."""
    return "bits/hidden byte" if run.objective.kind == SpanConfig.kind else "bits/byte"


def duration(seconds: float) -> str:
    """``75`` -> ``1:15``."""
    whole = max(round(seconds), 0)
    hours, rest = divmod(whole, 3600)
    minutes, second = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{second:02d}" if hours else f"{minutes}:{second:02d}"


def step_figures(report: StepReport, unit: str) -> list[str]:
    """The short figures of a step, in the order that they are shown."""
    parts = [
        f"loss {report.loss:.3f}",
        f"{report.bits:.3f} {unit}",
        f"{report.tokens_per_second:,.0f} tokens/s",
    ]
    if report.layers:
        parts.append(f"dropped {report.dropped:.1%}")
        parts.append(f"balance {report.balance:.2f} (max/mean load)")
    return parts


def evaluation_line(evaluation: Evaluation, unit: str) -> str:
    """One line for an evaluation."""
    terms = ", ".join(f"{name} {value:.3f}" for name, value in evaluation.terms.items() if value)
    return (
        f"step {evaluation.step}: validation loss {evaluation.loss:.4f}, "
        f"{evaluation.bits:.4f} {unit}"
        + (f" ({terms})" if terms else "")
        + "".join(f"; {name} {loss:.4f}" for name, loss in evaluation.sources.items())
    )


def event_line(event: Event) -> str:
    """One line for an event: ``step 7: alarm in decoder.1.moe: ..``."""
    where = f" in {event.layer}" if event.layer else ""
    return f"step {event.step}: {event.name}{where}: {event.text}"


class Rate:
    """Time left, from the mean pace of the steps of this process."""

    def __init__(self, first: int, steps: int, started: float) -> None:
        self._first, self._steps, self._started = first, steps, started

    def left(self, step: int, now: float) -> float:
        done = max(step - self._first, 1)
        return (now - self._started) / done * (self._steps - step)
