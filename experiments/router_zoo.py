"""All routers at equal arithmetic: what each makes of the same text.

    python -m experiments.router_zoo runs/zoo > docs/results/router-zoo.md

The router under test serves the encoder of `switch_tiny` in the span form; top-k with as many
experts a token serves the decoder, so that routers which decide over whole groups are compared with
the others where both are honest. `reinforce`, which is rewarded by targets, serves the decoder
under a Switch encoder. The text is the standard library in two sources, whose numbers are the
labels of the routers that read labels. With k experts a token an expert has 1 / k of the width.
"""

import sys
import sysconfig
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from experiments.cells import Result, by_arm, cells, machine, run, spread
from turnout.config import io
from turnout.config.arithmetic import forward_flops
from turnout.config.mixture import MixtureConfig, SourceConfig
from turnout.config.model import EncoderDecoderConfig
from turnout.config.presets import run as preset
from turnout.config.routers import (
    HashRouter,
    HierarchicalRouter,
    NoisyTopKRouter,
    NullExpertsRouter,
    ReinforceRouter,
    RouterConfig,
    SwitchRouter,
    ThorRouter,
    TopKRouter,
)
from turnout.config.train import RunConfig
from turnout.conformance.examples import EXAMPLES

PRESET, SEEDS, STEPS, ROWS = "switch_tiny", (1, 2, 3), 160, 4
COMMON = ("--train.dtype", "float32")
FORMS: Mapping[str, RouterConfig] = EXAMPLES | {
    "hash, balanced": HashRouter("balanced"),
    "hash, bigram": HashRouter("bigram"),
    "null_experts": NullExpertsRouter(2, nulls=4, budget=1.0),
}
GATES_OF_2017 = (NoisyTopKRouter.kind, HierarchicalRouter.kind)


@dataclass(frozen=True)
class Arm:
    """A router in its place.

    Attributes:
        layer: the sparse layer that it serves; None for the dense twin.
        passes: forward passes of a training step.
    """

    config: RunConfig
    layer: str | None
    passes: int = 1


def arm(router: RouterConfig) -> Arm:
    """The run of one router."""
    spent = router.budget if isinstance(router, NullExpertsRouter) else router.active
    beside = SwitchRouter() if spent == 1 else TopKRouter(round(spent))
    in_decoder = isinstance(router, ReinforceRouter)
    base = _base()
    assert isinstance(base.model, EncoderDecoderConfig) and base.model.moe is not None
    wide = base.model.feed_forward
    moe = replace(
        base.model.moe,
        router=beside if in_decoder else router,
        decoder_router=router if in_decoder else beside,
        expert=replace(wide, d_ff=round(wide.d_ff / spent)),
    )
    losses = base.losses
    if router.kind in GATES_OF_2017:
        losses = replace(losses, balance=0.0, importance=0.1, load=0.1)
    return Arm(
        replace(base, model=replace(base.model, moe=moe), losses=losses),
        "decoder.1.moe" if in_decoder else "encoder.1.moe",
        passes=2 if isinstance(router, ThorRouter) and router.consistency > 0 else 1,
    )


def dense() -> Arm:
    """The same without experts."""
    base = _base()
    return Arm(replace(base, model=replace(base.model, moe=None)), None)


def _base() -> RunConfig:
    config = preset(PRESET, "span")
    library = Path(sysconfig.get_paths()["stdlib"])
    sources = tuple(
        SourceConfig(name, tuple(map(str, sorted(library.glob(pattern)))))
        for name, pattern in (("modules", "*.py"), ("tests", "test/test_*.py"))
    )
    return replace(
        config,
        data=replace(config.data, mixture=MixtureConfig(sources)),
        schedule=replace(config.schedule, warmup=30),
        train=replace(
            config.train, steps=STEPS, batch_rows=ROWS, eval_every=STEPS, save_every=STEPS
        ),
    )


def arithmetic(arm: Arm, result: Result) -> float:
    """Of a training step, with the experts that computed a token in all steps of the run."""
    model = arm.config.model
    assert isinstance(model, EncoderDecoderConfig)
    flops = float(forward_flops(model, 1))
    if arm.layer is not None and model.moe is not None:
        expert = model.moe.expert_ffn(model.feed_forward)
        stacks = {
            "encoder.1.moe": (model.encoder_length, model.moe.router),
            "decoder.1.moe": (model.decoder_length, model.moe.decoder_router),
        }
        for name, (tokens, router) in stacks.items():
            assert router is not None
            fewer = router.active - result.traffic[name].computed
            flops -= fewer * tokens * 2 * expert.num_params(model.d_model)
    return arm.passes * flops


def main(folder: Path, jobs: int, minutes: float) -> str:
    """The page, after running what is missing for at most that long."""
    arms = {"dense twin": dense()} | {name: arm(router) for name, router in FORMS.items()}
    options = {name: ("--config", _written(arm, name, folder)) for name, arm in arms.items()}
    every = cells(options, SEEDS, COMMON)
    found = by_arm(run(every, PRESET, folder, jobs, time.time() + 60 * minutes))
    done = sum(map(len, found.values()))
    return "\n".join(
        [
            "# All routers at equal arithmetic",
            "",
            f"Command: `python -m experiments.router_zoo FOLDER {jobs}`; {done} of {len(every)} "
            f"cells done. {machine()}.",
            "",
            (__doc__ or "").split("\n\n")[-1].replace("\n", " ").strip(),
            "",
            f"`{PRESET}` in the span form, {STEPS} steps of {ROWS} rows, {' '.join(COMMON)}, seeds "
            f"{', '.join(map(str, SEEDS))}; mean over seeds, least and largest in brackets, best "
            "held-out loss first. Columns but loss, arithmetic and tokens/s are of the layer "
            "under test: load CV, dropped and without expert over the last 50 steps, experts a "
            "token over all. Arithmetic is that of a training step with the experts that did "
            "compute (tokens dropped cost nothing), over that of the dense twin.",
            "",
            table(arms, found),
            "",
            *_reading(found),
        ]
    )


def _reading(found: Mapping[str, Sequence[Result]]) -> list[str]:
    """How far the table can be trusted."""
    apart = [max(r.loss for r in rs) - min(r.loss for r in rs) for rs in found.values()]
    several = sorted(gap for gap, rs in zip(apart, found.values(), strict=True) if len(rs) > 1)
    seconds = [result.seconds for results in found.values() for result in results]
    lines = [
        f"The longest cell took {max(seconds):.0f} seconds, the median {median(seconds):.0f}. Runs "
        "this short rank what learns soonest, not what learns most.",
        "",
        "`label`, `sentence` and `task` send whole rows to their experts, of which a capacity of "
        "1.25 times the mean keeps a part: they are made for rows of many sources, in groups of "
        "many rows. `thor` computes every row twice.",
    ]
    if several:
        lines[0] += (
            f" Seeds of one arm lie {median(several):.3f} apart (median), at most "
            f"{several[-1]:.3f}: differences of that size decide nothing."
        )
    return lines


def _written(arm: Arm, name: str, folder: Path) -> str:
    """The arm's configuration as a file."""
    path = folder / f"{name.replace(' ', '-').replace(',', '')}.toml"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(io.dump_toml(arm.config))
    return str(path)


def table(arms: Mapping[str, Arm], found: Mapping[str, Sequence[Result]]) -> str:
    """A row an arm, best held-out loss first."""
    ranked = sorted(found, key=lambda name: sum(r.loss for r in found[name]) / len(found[name]))
    twin = forward_flops(dense().config.model, 1)
    lines = [
        "| router | held-out loss | load CV | dropped | without expert | experts a token "
        "| arithmetic | tokens/s | parameters | seeds |",
        "|---" * 10 + "|",
    ]
    for name in ranked:
        arm, results = arms[name], found[name]
        cost = [arithmetic(arm, result) / twin for result in results]
        lines.append(
            f"| {name} | {spread([r.loss for r in results], '.4f')} | {_of_layer(arm, results)} "
            f"| {spread(cost, '.2f')} | {spread([r.speed for r in results], ',.0f')} "
            f"| {arm.config.model.num_params() / 1e6:.2f}M | {len(results)} |"
        )
    return "\n".join(lines)


def _of_layer(arm: Arm, results: Sequence[Result]) -> str:
    """Four cells; dashes for the dense twin."""
    if arm.layer is None:
        return "- | - | - | -"
    passed = [result.traffic[arm.layer] for result in results]
    return " | ".join(
        (
            spread([traffic.variation for traffic in passed], ".2f"),
            spread([traffic.dropped for traffic in passed], ".1%"),
            spread([traffic.unrouted for traffic in passed], ".1%"),
            spread([traffic.computed for traffic in passed], ".2f"),
        )
    )


if __name__ == "__main__":
    print(
        main(
            Path(sys.argv[1]),
            int(sys.argv[2]) if len(sys.argv) > 2 else 2,
            float(sys.argv[3]) if len(sys.argv) > 3 else 24 * 60,
        )
    )
