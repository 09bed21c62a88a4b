"""The arms of a comparison: the sparse runs, the dense twin, and the further baselines."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from turnout.config import presets
from turnout.config.arithmetic import (
    d_ff_of_flops,
    d_ff_of_parameters,
    deepened,
    forward_flops,
    step_flops,
    with_d_ff,
)
from turnout.config.compare import Protocol, with_decay
from turnout.config.errors import ConfigError
from turnout.config.model import ModelConfig
from turnout.config.train import RunConfig

TOLERANCE = 0.01
"""How far the arithmetic of a sparse arm may be from the dense twin's."""

DENSE = "dense"


@dataclass(frozen=True)
class Arm:
    """One model and recipe of a comparison, trained once a seed.

    Attributes:
        name: ``dense``, ``experts-8``, ``dense-wider``; in the names of its runs.
        config: the run but for learning rate and seeds.
        sparse: whether it is one of the models that are to be judged.
        seeds: trained with its rate, from seed 1.
        rate_of: the arm whose trial of learning rates decides; its own name where it has one.
        baselines: the arms it is measured against.
        notes: what its derivation changed, for the reader of the results.
    """

    name: str
    config: RunConfig
    sparse: bool
    seeds: int
    rate_of: str
    baselines: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def step_flops(self) -> int:
        """Arithmetic of a training step, every position real and nothing dropped."""
        return step_flops(self.config.model, self.config.train.batch_rows)

    @property
    def num_experts(self) -> int:
        """Experts of a sparse layer; 0 without any."""
        return 0 if self.config.model.moe is None else self.config.model.moe.num_experts

    def run(self, rate: float, seed: int) -> RunConfig:
        """The run of a seed: seed s adds s to the seeds of the weights and of the batches."""
        config = self.config
        return replace(
            config,
            optimizer=replace(config.optimizer, learning_rate=rate),
            train=replace(config.train, seed=config.train.seed + seed),
            data=replace(config.data, seed=config.data.seed + seed),
        )


@dataclass(frozen=True)
class PlannedRun:
    """A run of an arm, named by what it is."""

    arm: Arm
    rate: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.arm.name}-lr{self.rate:g}-seed{self.seed}"

    @property
    def config(self) -> RunConfig:
        return self.arm.run(self.rate, self.seed)

    @property
    def steps(self) -> int:
        return self.arm.config.train.steps


def arms(protocol: Protocol) -> tuple[Arm, ...]:
    """Every arm: the dense twin first, the sparse models by expert count, then the baselines.

    Raises:
        ConfigError: the dense twin's arithmetic is not within 1% of a sparse arm's.
    """
    dense, main = _pair(protocol)
    sparse = sorted((main, *_swept(protocol, dense)), key=lambda arm: arm.num_experts)
    return (dense, *sparse, *_baselines(protocol, dense, main))


def main_arm(protocol: Protocol) -> Arm:
    """The run itself."""
    return next(arm for arm in arms(protocol) if arm.name == _main_name(protocol))


def _main_name(protocol: Protocol) -> str:
    return f"experts-{protocol.num_experts}"


def trials(protocol: Protocol) -> tuple[PlannedRun, ...]:
    """The runs of seed 0 that choose learning rates; none where there is only one rate."""
    rates = protocol.compare.learning_rates
    tuned = [arm for arm in arms(protocol) if arm.rate_of == arm.name and len(rates) > 1]
    return tuple(PlannedRun(arm, rate, 0) for rate in rates for arm in tuned)


def measured(protocol: Protocol, rates: dict[str, float]) -> tuple[PlannedRun, ...]:
    """The runs that are reported, seed by seed so that a slow hour meets every arm alike.

    Args:
        rates: the chosen learning rate of each arm that had a trial.
    """
    every = arms(protocol)
    return tuple(
        PlannedRun(arm, rates[arm.rate_of], seed)
        for seed in range(1, protocol.compare.seeds + 1)
        for arm in every
        if seed <= arm.seeds
    )


def count_runs(protocol: Protocol) -> int:
    """Runs of the whole comparison."""
    return len(trials(protocol)) + sum(arm.seeds for arm in arms(protocol))


def total_flops(protocol: Protocol) -> int:
    """Arithmetic of all runs' training steps."""
    tried = sum(run.steps * run.arm.step_flops for run in trials(protocol))
    steps = protocol.run.train.steps
    return tried + sum(arm.seeds * steps * arm.step_flops for arm in arms(protocol))


def _pair(protocol: Protocol) -> tuple[Arm, Arm]:
    run, seeds = protocol.run, protocol.compare.seeds
    name = _main_name(protocol)
    main = Arm(name, run, True, seeds, name, (DENSE,))
    plain = presets.dense_twin(run)
    model, notes = _twin(plain.model, run.model, protocol.compare.dense_d_ff)
    dense = Arm(DENSE, replace(plain, model=model), False, seeds, DENSE, (), notes)
    _check_arithmetic(dense, main, protocol)
    return dense, main


def _twin(
    plain: ModelConfig, sparse: ModelConfig, d_ff: int | None
) -> tuple[ModelConfig, tuple[str, ...]]:
    """The dense model of equal arithmetic, and what had to change for it."""
    wanted, before = forward_flops(sparse, 1), plain.feed_forward.d_ff
    if d_ff is not None:
        return with_d_ff(plain, d_ff), (f"d_ff {d_ff} as the protocol sets it",)
    if _off(forward_flops(plain, 1), wanted) <= TOLERANCE:
        return plain, ()
    after = d_ff_of_flops(plain, wanted)
    note = (
        f"d_ff {before} -> {after} in every layer: the plain twin does "
        f"{forward_flops(plain, 1) / wanted:.3f} times the arithmetic of the sparse model"
    )
    return with_d_ff(plain, after), (note,)


def _check_arithmetic(dense: Arm, sparse: Arm, protocol: Protocol) -> None:
    """Raises unless the two cost the same to within ``TOLERANCE``."""
    ours = forward_flops(sparse.config.model, 1)
    theirs = forward_flops(dense.config.model, 1)
    if _off(theirs, ours) <= TOLERANCE:
        return
    numbers = (
        f"a row through {dense.name} costs {theirs:,} FLOPs, through {sparse.name} {ours:,}: "
        f"{theirs / ours - 1:+.1%}"
    )
    if sparse.num_experts != protocol.num_experts:
        raise ConfigError(
            "compare.experts",
            sparse.num_experts,
            f"a count whose arithmetic is within {TOLERANCE:.0%} of the dense twin's",
            f"{numbers}; compare it in a folder of its own",
        )
    raise ConfigError(
        "compare.dense_d_ff",
        dense.config.model.feed_forward.d_ff,
        f"such that the dense twin's arithmetic is within {TOLERANCE:.0%} of the sparse model's",
        f"{numbers}; d_ff {d_ff_of_flops(dense.config.model, ours)} comes nearest",
    )


def _off(flops: int, wanted: int) -> float:
    return abs(flops / wanted - 1)


def _swept(protocol: Protocol, dense: Arm) -> Iterator[Arm]:
    """The other expert counts, each against the same dense runs."""
    moe = protocol.run.model.moe
    if moe is None:
        return
    for count in protocol.compare.experts:
        if count == moe.num_experts:
            continue
        model = replace(protocol.run.model, moe=replace(moe, num_experts=count))
        config = replace(protocol.run, model=model)
        arm = _other(protocol, f"experts-{count}", config, _main_name(protocol))
        arm = replace(arm, sparse=True, baselines=(DENSE,))
        _check_arithmetic(dense, arm, protocol)
        yield arm


def _baselines(protocol: Protocol, dense: Arm, main: Arm) -> Iterator[Arm]:
    compare, twin = protocol.compare, dense.config.model
    if compare.wider is not None:
        model = _widened(twin, main.config.model, compare.wider.most)
        yield _larger(protocol, "dense-wider", model, dense, main)
    if compare.deeper is not None:
        model = deepened(twin, round(forward_flops(twin, 1) * compare.deeper.factor))
        yield _larger(protocol, "dense-deeper", model, dense, main)
    if compare.weight_decay is not None:
        decay = compare.weight_decay.coefficient
        for arm, baselines in ((dense, (DENSE,)), (main, ("dense-decay", DENSE, main.name))):
            config = replace(arm.config, optimizer=with_decay(arm.config.optimizer, decay))
            other = _other(protocol, f"{arm.name}-decay", config, arm.name)
            note = f"weight decay {decay:g} on matrices"
            yield replace(other, sparse=arm.sparse, baselines=baselines, notes=(*arm.notes, note))


def _widened(twin: ModelConfig, sparse: ModelConfig, most: float) -> ModelConfig:
    by_parameters = d_ff_of_parameters(twin, sparse.num_params())
    by_flops = d_ff_of_flops(twin, round(forward_flops(twin, 1) * most))
    return with_d_ff(twin, max(min(by_parameters, by_flops), twin.feed_forward.d_ff + 1))


def _larger(protocol: Protocol, name: str, model: ModelConfig, dense: Arm, main: Arm) -> Arm:
    """A dense baseline with more arithmetic; its notes say how much of what."""
    twin, sparse = dense.config.model, main.config.model
    note = (
        f"d_ff {model.feed_forward.d_ff}, {sum(s.num_layers for s in model.stacks())} layers: "
        f"{forward_flops(model, 1) / forward_flops(twin, 1):.2f} times the arithmetic of the twin, "
        f"{model.num_params() / sparse.num_params():.2f} times the parameters of {main.name}"
    )
    arm = _other(protocol, name, replace(dense.config, model=model), DENSE)
    return replace(arm, baselines=(DENSE,), notes=(note,))


def _other(protocol: Protocol, name: str, config: RunConfig, parent: str) -> Arm:
    """An arm beside the pair: fewer seeds, and the parent's learning rate if so configured."""
    own = protocol.compare.tune == "all"
    return Arm(name, config, False, protocol.compare.other_seeds, name if own else parent)


def pairs(protocol: Protocol) -> tuple[tuple[Arm, Arm], ...]:
    """(baseline, arm) for every speed-up that is reported.

    Each arm against its own baselines, and the run itself against the larger and decayed dense
    models too.
    """
    every, main = arms(protocol), main_arm(protocol)
    by_name = {arm.name: arm for arm in every}
    own = [(by_name[name], arm) for arm in every for name in arm.baselines]
    return (*own, *((arm, main) for arm in every if not arm.sparse and arm.name != DENSE))
