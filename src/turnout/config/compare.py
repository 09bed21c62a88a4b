"""A comparison: one sparse run, and how it is set against dense ones, fixed before the first step.

The file form is that of a run with one more table, ``[compare]``: a run's file is a comparison's.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import singledispatch
from typing import Any, Literal

import tomli_w

from turnout.config import io
from turnout.config.errors import ConfigError, UserError, check_words, require
from turnout.config.optimizers import AdamWConfig
from turnout.config.train import RunConfig

TABLE = "compare"
RATE_FACTORS = (0.5, 1.0, 2.0)
FEWEST_EVALUATIONS = 2


@dataclass(frozen=True)
class Wider:
    """The dense model with d_ff enlarged to the sparse model's total parameters, as long as its
    arithmetic is at most ``most`` times the twin's; enlarged to that otherwise."""

    most: float = 4.0

    def __post_init__(self) -> None:
        require(1 < self.most < math.inf, "compare.wider.most", self.most, "above 1")


@dataclass(frozen=True)
class Deeper:
    """The dense model with more layers of equal width, to ``factor`` times the arithmetic."""

    factor: float = 2.0

    def __post_init__(self) -> None:
        require(1 < self.factor <= 64, "compare.deeper.factor", self.factor, "in (1, 64]")


@dataclass(frozen=True)
class Decayed:
    """The dense twin and the sparse model, both with AdamW's decoupled weight decay."""

    coefficient: float = 0.1

    def __post_init__(self) -> None:
        require(
            0 < self.coefficient < math.inf,
            "compare.weight_decay.coefficient",
            self.coefficient,
            "above 0",
        )


@dataclass(frozen=True)
class CompareConfig:
    """What is compared with the run.

    ``learning_rates`` are tried on seed 0, and each arm takes its best by final validation loss;
    seeds 1 to ``seeds`` are then trained with it. A single rate is taken without a trial.
    ``experts`` are counts to compare, that of the run among them; none means that one alone.
    The run and its dense twin get all seeds, every other arm ``other_seeds``. ``tune`` ``all``
    gives each arm its own trial; with ``pair`` only the run and its twin have one, and the other
    arms take the rate of the one they derive from. ``dense_d_ff`` replaces the twin's computed
    width. ``wider``, ``deeper`` and ``weight_decay`` are further baselines.
    """

    learning_rates: tuple[float, ...] = ()
    seeds: int = 3
    experts: tuple[int, ...] = ()
    other_seeds: int = 1
    tune: Literal["all", "pair"] = "all"
    dense_d_ff: int | None = None
    wider: Wider | None = None
    deeper: Deeper | None = None
    weight_decay: Decayed | None = None

    def __post_init__(self) -> None:
        check_words(self, "compare")
        for rate in self.learning_rates:
            require(0 < rate < math.inf, "compare.learning_rates", rate, "above 0")
        for count in self.experts:
            require(count >= 1, "compare.experts", count, "at least 1")
        for name in ("learning_rates", "experts"):
            values = getattr(self, name)
            require(
                len(set(values)) == len(values), f"compare.{name}", list(values), "without repeats"
            )
        require(1 <= self.seeds <= 1000, "compare.seeds", self.seeds, "in 1 .. 1000")
        require(
            1 <= self.other_seeds <= self.seeds,
            "compare.other_seeds",
            self.other_seeds,
            f"in 1 .. compare.seeds ({self.seeds})",
        )
        require(
            self.dense_d_ff is None or self.dense_d_ff >= 1,
            "compare.dense_d_ff",
            self.dense_d_ff,
            "at least 1",
        )


BASELINES = ("wider", "deeper", "weight_decay")
"""The fields that add baselines, by the names that ``--baselines`` takes."""


@dataclass(frozen=True)
class Protocol:
    """All that is decided before the first run; build it with ``resolved``.

    Raises:
        ConfigError: a run that is no fair comparison's: dense, evaluated with a capacity, or
            evaluated too rarely to interpolate.
    """

    run: RunConfig
    compare: CompareConfig = field(default_factory=CompareConfig)

    def __post_init__(self) -> None:
        moe, train = self.run.model.moe, self.run.train
        if moe is None:
            raise UserError(
                f"compare: the model of {self.run.preset} is dense; give the sparse run, whose "
                "dense twin is derived from it"
            )
        require(
            moe.eval_capacity_factor is None,
            "model.moe.eval_capacity_factor",
            moe.eval_capacity_factor,
            "none in a comparison",
            "evaluation drops no token",
        )
        require(
            moe.eval_slots is None,
            "model.moe.eval_slots",
            moe.eval_slots,
            "none in a comparison",
            "evaluation drops no token",
        )
        require(
            train.steps // train.eval_every >= FEWEST_EVALUATIONS,
            "train.eval_every",
            train.eval_every,
            f"at most train.steps / {FEWEST_EVALUATIONS} ({train.steps // FEWEST_EVALUATIONS})",
            "speed-ups are interpolated between evaluations",
        )
        require(bool(self.compare.learning_rates), "compare.learning_rates", [], "at least one")
        require(
            moe.num_experts in self.compare.experts,
            "compare.experts",
            list(self.compare.experts),
            f"a list with model.moe.num_experts ({moe.num_experts}) in it",
        )
        if self.compare.weight_decay is not None:
            with_decay(self.run.optimizer, self.compare.weight_decay.coefficient)

    @property
    def num_experts(self) -> int:
        """Experts of the run itself, which is compared over all seeds."""
        return 0 if self.run.model.moe is None else self.run.model.moe.num_experts

    def to_dict(self) -> dict[str, Any]:
        """The run's tables, and ``compare``."""
        return {**io.to_dict(self.run), TABLE: io.to_dict(self.compare)}

    def toml(self) -> str:
        """As a file that ``--config`` reads."""
        return tomli_w.dumps(self.to_dict())


@singledispatch
def with_decay(optimizer: object, coefficient: float) -> AdamWConfig:
    """The optimiser with another weight decay.

    Raises:
        ConfigError: it knows none, or has this one already.
    """
    raise ConfigError(
        "optimizer.kind",
        getattr(optimizer, "kind", optimizer),
        f"{AdamWConfig.kind!r} with the baseline weight_decay",
        "leave the baseline out, or take that optimiser",
    )


@with_decay.register
def _(optimizer: AdamWConfig, coefficient: float) -> AdamWConfig:
    require(
        optimizer.weight_decay != coefficient,
        "compare.weight_decay.coefficient",
        coefficient,
        "another value than the run's own optimizer.weight_decay",
    )
    return replace(optimizer, weight_decay=coefficient)


def resolved(run: RunConfig, compare: CompareConfig) -> Protocol:
    """The protocol with what was left open filled in: rates around the run's, its expert count."""
    rates = compare.learning_rates or tuple(
        float(f"{run.optimizer.learning_rate * factor:.6g}") for factor in RATE_FACTORS
    )
    moe = run.model.moe
    experts = compare.experts or (() if moe is None else (moe.num_experts,))
    return Protocol(run, replace(compare, learning_rates=rates, experts=experts))


def from_table(table: Mapping[str, Any], source: str) -> Protocol:
    """A protocol from the table of its file.

    Raises:
        UserError: as ``io.from_dict``; ``source`` names the file.
    """
    run = io.run_from_table({name: table[name] for name in table if name != TABLE})
    given = table.get(TABLE)
    if not isinstance(given, Mapping):
        raise UserError(f"{source}: no table [{TABLE}]; it is no protocol of a comparison")
    return Protocol(run, io.from_dict(CompareConfig, given, path=TABLE))


def difference(old: Protocol, new: Protocol) -> str | None:
    """The first field in which two protocols differ, with both values; None if they agree."""
    before, after = dict(io.flat(old.to_dict())), dict(io.flat(new.to_dict()))
    for name in (*after, *before):
        if before.get(name) != after.get(name):
            return f"{name} is {before.get(name, 'absent')} there, {after.get(name, 'absent')} here"
    return None


def baseline_defaults(names: tuple[str, ...]) -> dict[str, Any]:
    """The tables that switch baselines on, by name.

    Raises:
        ConfigError: a name that is none of ``BASELINES``.
    """
    for name in names:
        require(name in BASELINES, "--baselines", name, f"of {', '.join(BASELINES)}")
    return {name: {} for name in names}
