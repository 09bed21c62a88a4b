"""The learning curve, beside what needs no model, and what happened on the way."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from turnout.probe.report.picture import Columns, Key, Picture, named
from turnout.probe.report.records import Event, History
from turnout.probe.report.text import line
from turnout.probe.report.thin import envelope, evaluated, smoothed, width_of
from turnout.probe.report.views import ROOM, columns, frame, marked, x_axis, zoomable
from turnout.probe.style import altair


def learning(
    history: History, unit: str, baselines: Mapping[str, float], events: Sequence[Event]
) -> Picture | None:
    """Training batches and their running mean, held-out text, what needs no model, events.

    None where no finite loss was recorded.
    """
    step, bits = history.step, history.scalars["bits"]
    raw, mean, held_out = envelope(step, bits), smoothed(step, bits), evaluated(history)
    known = Known(dict(baselines), tuple(events), tuple(history.saves))
    window = frame(mean if len(mean) else raw, held_out, list(baselines.values()))
    if not len(raw) and not len(held_out):
        return None
    lines = {"raw": raw, "mean": mean, "heldout": held_out}
    keys = {
        "raw": Key("training batches", "@pale"),
        "mean": Key(f"mean of {width_of(len(step))} batches", "@blue"),
        "heldout": Key("held-out text", "@orange", "point"),
    }
    last = held_out.value[-1] if len(held_out) else math.nan
    dashed = " Dashed: models that only count, on the same held-out text." if baselines else ""
    return Picture(
        "learning",
        f"{unit[:1].upper()}{unit[1:]} over training",
        f"Lower is better.{dashed}",
        f"Line chart of {unit} over training. "
        + (f"Held-out text ends at {last:.3f}. " if math.isfinite(last) else "")
        + " ".join(f"{line(name)}: {value:.3f}." for name, value in baselines.items()),
        _learning_layers({name: keys[name] for name in lines if len(lines[name])}, known, window),
        {
            **{name: columns(each, series=keys[name].name) for name, each in lines.items()},
            **known.data(),
        },
        (*(keys[name] for name in lines if len(lines[name])), *known.keys()),
        height=340,
    )


@dataclass(frozen=True)
class Known:
    """What a curve is drawn beside: baselines, events, checkpoints."""

    baselines: Mapping[str, float]
    events: tuple[Event, ...]
    saves: tuple[int, ...]

    def data(self) -> dict[str, Columns]:
        """For a chart, by name."""
        return {
            "baselines": {
                "value": list(self.baselines.values()),
                "label": [f"{line(name)}: {value:.2f}" for name, value in self.baselines.items()],
            },
            "events": {
                "step": [event.step for event in self.events],
                "what": [line(f"{event.name} {event.layer}".strip(), 60) for event in self.events],
                "text": [line(event.text, 160) for event in self.events],
            },
            "saves": {"step": list(self.saves)},
        }

    def keys(self) -> tuple[Key, ...]:
        """Legend entries of what is there."""
        events = (Key("events", "@alarm", "dash"),) if self.events else ()
        return (*events, Key("checkpoints", "@quiet", "tick")) if self.saves else events

    def rules(self, alt: Any, y: Any) -> list[Any]:
        """Baselines across the chart, with their names over them."""
        if not self.baselines:
            return []
        rule = named("baselines").mark_rule(strokeDash=[5, 4], color="@quiet", strokeWidth=1.2)
        label = named("baselines").encode(y=y, x=alt.value("width"), text="label:N")
        place = {"align": "right", "baseline": "bottom", "dy": -4, "fontSize": 12}
        return [
            rule.encode(y=y),
            label.mark_text(**place, color="@paper", stroke="@paper", strokeWidth=4),
            label.mark_text(**place, color="@quiet"),
        ]

    def marks(self, alt: Any, x: Any) -> list[Any]:
        """Events down the chart, checkpoints at its foot."""
        found = []
        at = alt.Tooltip("step:Q", format=",")
        if self.events:
            told = [
                at,
                alt.Tooltip("what:N", title="event"),
                alt.Tooltip("text:N", title="details"),
            ]
            rule = named("events").mark_rule(strokeWidth=1.5, color="@alarm", strokeDash=[2, 2])
            found.append(rule.encode(x=x, tooltip=told))
        if self.saves:
            tick = named("saves").mark_tick(
                color="@quiet", thickness=1.5, size=9, orient="vertical", yOffset=-5
            )
            told = [alt.Tooltip("step:Q", format=",", title="checkpoint after step")]
            found.append(tick.encode(x=x, y=alt.value("height"), tooltip=told))
        return found


def _learning_layers(
    keys: Mapping[str, Key], known: Known, window: tuple[float, float]
) -> dict[str, Any]:
    """The layers of the learning chart, for the lines that have points."""
    alt = altair()
    x = x_axis(alt, ROOM)
    y = alt.Y("value:Q", title=None, scale=alt.Scale(domain=list(window), nice=False))
    scale = alt.Scale(
        domain=[key.name for key in keys.values()], range=[key.colour for key in keys.values()]
    )

    colour = alt.Color("series:N", scale=scale, title=None)

    def drawn(name: str, width: float) -> Any:
        mark = named(name).mark_line(strokeWidth=width, clip=True)
        return mark.encode(x=x, y=y, color=colour)

    layers = known.marks(alt, x)
    layers += [drawn("raw", 1.0)] if "raw" in keys else []
    rules = known.rules(alt, y)
    layers += rules[:1]
    layers += [drawn("mean", 2.2)] if "mean" in keys else []
    if "heldout" in keys:
        point = named("heldout").mark_point(filled=True, size=46, opacity=1, clip=True)
        layers += [drawn("heldout", 1.4), point.encode(x=x, y=y, color=colour)]
    told = [alt.Tooltip("step:Q", format=","), alt.Tooltip("value:Q", format=".4f", title="bits")]
    layers += rules[1:]
    layers += [marked(alt, name, x, y, told) for name in keys if name != "raw" or len(keys) == 1]
    return zoomable(alt, layers)
