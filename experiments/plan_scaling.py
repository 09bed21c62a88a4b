"""Memory and communication of a rank from 2 to 4,096 ranks, at fixed work a rank, by the plan.

``python -m experiments.plan_scaling`` writes ``docs/results/plan-scaling.md`` and ``.png``. Every
rank has as many rows at every size, and as many experts where an axis shares them out. A layout
stops scaling at the first size where a step takes half as long again as on two ranks, or where a
rank no longer has room.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from turnout.config import presets
from turnout.config.errors import ConfigError
from turnout.config.layout import over_ranks
from turnout.config.parallel import ParallelPlan
from turnout.config.train import RunConfig
from turnout.plan.communication import collectives
from turnout.plan.hardware import DEVICES, Assumptions
from turnout.plan.memory import optimiser_bytes
from turnout.plan.search import Layout
from turnout.plan.work import work_of
from turnout.probe.style import BLUE, FAINT, INK, ORANGE, altair, panel, save

RESULTS = Path(__file__).parents[1] / "docs" / "results"
SIZES = tuple(2**power for power in range(1, 13))
PRESET, DEVICE, ROWS = "switch_base", "h100", 64
LIMIT = 1.5  # times the step of two ranks
COLOURS = {
    "data": INK,
    "sharded data": BLUE,
    "expert and data": ORANGE,
    "expert, 8 a group": "#8457a6",
    "tensor": "#1d7a5f",
    "expert, tensor 4, data": "#a8324f",
}


@dataclass(frozen=True)
class Point:
    """One layout at one size."""

    layout: str
    ranks: int
    memory: float
    sent: float
    step: float
    fits: bool


def main() -> None:
    """Compute, draw, write."""
    points = list(computed())
    ends = {name: end(points, name) for name in COLOURS}
    (RESULTS / "plan-scaling.md").write_text(page(points, ends), encoding="utf-8")
    save(chart(points, ends), RESULTS / "plan-scaling.png")


def computed() -> Iterator[Point]:
    """Every layout at every size that it is possible at."""
    for ranks in SIZES:
        for name, plan in plans(ranks).items():
            layout = laid(plan, ranks)
            if layout is not None:
                found = collectives(layout.work, "expected")
                sent = sum(each.sent * each.count for each in found)
                peak = layout.expected.peak
                yield Point(name, ranks, peak, sent, layout.time.step, layout.fits)


def plans(ranks: int) -> dict[str, ParallelPlan]:
    """The ways of the Switch paper's figure 9, and what is built on them."""
    group = min(8, ranks)
    return {
        "data": ParallelPlan(fsdp=1),
        "sharded data": ParallelPlan(),
        "expert and data": ParallelPlan(expert=ranks),
        "expert, 8 a group": ParallelPlan(expert=group, fsdp=group),
        "tensor": ParallelPlan(tensor=ranks),
        "expert, tensor 4, data": ParallelPlan(expert=max(ranks // 4, 1), tensor=min(4, ranks)),
    }


def laid(plan: ParallelPlan, ranks: int) -> Layout | None:
    """The run of this many ranks under ``plan``; None where the axes do not divide the model."""
    run = sized(ranks)
    try:
        plan = over_ranks(replace(run, parallel=plan), ranks)
    except ConfigError:
        return None
    work = work_of(run, plan)
    state = optimiser_bytes(run, work.sharding)
    return Layout(work, DEVICES[DEVICE], Assumptions(), state)


def sized(ranks: int) -> RunConfig:
    """As many experts as ranks, 128 at least, and the same rows for each rank."""
    run = presets.run(PRESET)
    moe = run.model.moe
    assert moe is not None
    model = replace(run.model, moe=replace(moe, num_experts=max(128, ranks)))
    train = replace(run.train, batch_rows=ROWS * ranks, micro_batches=1, dtype="bfloat16")
    return replace(run, model=model, train=train)


def end(points: list[Point], name: str) -> Point | None:
    """Where a layout stops scaling; None where it does not, up to the last size."""
    own = [point for point in points if point.layout == name]
    first = own[0].step
    return next((p for p in own if p.step > LIMIT * first or not p.fits), None)


def chart(points: list[Point], ends: dict[str, Point | None]) -> Any:
    """Three panels over the number of ranks; a cross where a layout stops scaling."""
    measures = {"memory of a rank, GB": 1e9, "sent by a rank and step, GB": 1e9, "step, s": 1.0}
    alt = altair()
    parts = []
    for title, unit in measures.items():
        rows = [row(point, title, unit) for point in points]
        stops = [row(point, title, unit) for point in ends.values() if point is not None]
        x = alt.X(
            "ranks:Q",
            title="ranks",
            scale=alt.Scale(type="log", base=2),
            axis=alt.Axis(values=list(SIZES), grid=False, labelOverlap=True),
        )
        y = alt.Y("value:Q", title=None, scale=alt.Scale(type="log"))
        colour = alt.Color(
            "layout:N",
            scale=alt.Scale(domain=list(COLOURS), range=list(COLOURS.values())),
            legend=alt.Legend(orient="top", title=None, columns=3),
        )
        line = alt.Chart(alt.Data(values=rows)).mark_line(strokeWidth=2.2).encode(x, y, colour)
        cross = alt.Chart(alt.Data(values=stops)).mark_point(
            shape="cross", angle=45, size=130, filled=True, opacity=1
        )
        drawn = alt.layer(line, cross.encode(x, y, colour))
        if title.startswith("memory"):
            room = [{"value": DEVICES[DEVICE].memory * (1 - Assumptions().reserve) / unit}]
            rule = alt.Chart(alt.Data(values=room)).mark_rule(strokeDash=[6, 4], color=FAINT)
            drawn = alt.layer(rule.encode(y=y), line, cross.encode(x, y, colour))
        about = ["dashed: room on a device", "x: stops scaling"] if "memory" in title else ["", ""]
        parts.append(panel(title, about, [drawn.properties(width=400, height=360)]))
    heading = f"{PRESET} on {DEVICE}, {ROWS} rows a rank: by the plan, not measured"
    whole = alt.hconcat(*parts, spacing=40)
    return whole.properties(title=alt.Title(heading, fontSize=22))


def row(point: Point, title: str, unit: float) -> dict[str, Any]:
    """A point of one panel."""
    values = {"m": point.memory, "s": point.sent, "t": point.step}
    key = {"memory": "m", "sent": "s", "step,": "t"}[title.split()[0]]
    return {"layout": point.layout, "ranks": point.ranks, "value": values[key] / unit}


def page(points: list[Point], ends: dict[str, Point | None]) -> str:
    """The figures as tables."""
    lines = [
        "# Scaling by the plan",
        "",
        "Computed by `turnout plan`'s arithmetic, not measured: "
        "`python -m experiments.plan_scaling` (no seed, no clock). "
        f"The model is `{PRESET}` with as many experts as ranks, 128 at least; each rank has "
        f"{ROWS} rows of 512 + 114 tokens at every size, one micro-batch, bfloat16, Adafactor, on "
        f"`{DEVICE}`. Layouts are missing where their axes do not divide the model: tensor ranks "
        "share out 12 heads.",
        "",
        "![memory, communication and time over the number of ranks](plan-scaling.png)",
        "",
        f"A layout stops scaling at the first size where a step takes {LIMIT} times that of its "
        "smallest size, or a rank no longer has room:",
        "",
        "| layout | stops at | because |",
        "|---|---|---|",
    ]
    for name, point in ends.items():
        sizes = [p.ranks for p in points if p.layout == name]
        if point is not None:
            why = "of the time of a step" if point.fits else "of memory"
            lines.append(f"| {name} | {point.ranks:,} | {why} |")
        else:
            last = "its axes end there" if sizes[-1] < SIZES[-1] else "not up to there"
            lines.append(f"| {name} | after {sizes[-1]:,} | {last} |")
    for title, pick, unit in (
        ("Memory of a rank, GB", lambda p: p.memory, 1e9),
        ("Sent by a rank in a step, GB", lambda p: p.sent, 1e9),
        ("Seconds of a step", lambda p: p.step, 1.0),
    ):
        lines += ["", f"{title}:", "", "| ranks | " + " | ".join(COLOURS) + " |"]
        lines.append("|---" * (len(COLOURS) + 1) + "|")
        for ranks in SIZES:
            cells = {p.layout: f"{pick(p) / unit:.3g}" for p in points if p.ranks == ranks}
            lines.append(f"| {ranks:,} | " + " | ".join(cells.get(n, "") for n in COLOURS) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
