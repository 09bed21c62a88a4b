"""A run: model, objective, data, optimiser, schedule and the loop around them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from turnout.config.errors import ConfigError, require
from turnout.config.mixture import MixtureConfig
from turnout.config.model import DecoderOnlyConfig, EncoderDecoderConfig, ModelConfig
from turnout.config.objective import CausalConfig as CausalConfig
from turnout.config.objective import ObjectiveConfig as ObjectiveConfig
from turnout.config.objective import PrefixConfig as PrefixConfig
from turnout.config.objective import SpanConfig as SpanConfig
from turnout.config.objective import TextToTextConfig as TextToTextConfig

BalanceVariant = Literal[
    "switch",
    "mesh",
    "st_moe",
    "lingvo",
    "gshard",
    "deepseek",
    "megablocks",
    "flaxformer",
    "mixtral",
]
Scope = Literal["group", "batch", "previous"]


@dataclass(frozen=True)
class LossConfig:
    """Coefficients; zero switches a term off, and nothing else does.

    ``balance`` load balancing, ``router_z`` router z-loss (ST-MoE eq. 5), ``importance`` and
    ``load`` Shazeer's CV^2 losses, ``head_z`` the z-loss on the output logits (T5X 1e-4).
    ``scope`` is what the non-linear terms are computed over. ``layers`` sums the sparse layers'
    terms (Switch) or averages them (T5X).
    """

    balance: float = 0.01
    balance_variant: BalanceVariant = "switch"
    router_z: float = 0.001
    importance: float = 0.0
    load: float = 0.0
    head_z: float = 0.0
    scope: Scope = "group"
    layers: Literal["sum", "mean"] = "sum"

    def __post_init__(self) -> None:
        for name in ("balance", "router_z", "importance", "load", "head_z"):
            _not_negative(f"losses.{name}", getattr(self, name))


@dataclass(frozen=True)
class DataConfig:
    """Where the text comes from; no path means the standard library of the running Python.

    A ``mixture`` has sources with paths of their own.
    """

    paths: tuple[str, ...] = ()
    validation_share: float = 0.05
    seed: int = 0
    mixture: MixtureConfig | None = None

    def __post_init__(self) -> None:
        require(
            0 < self.validation_share < 1,
            "data.validation_share",
            self.validation_share,
            "in (0, 1)",
        )
        require(
            self.mixture is None or not self.paths,
            "data.paths",
            list(self.paths),
            "left out where data.mixture is given",
            "give the paths to one of its sources, or set data.mixture to none",
        )


@dataclass(frozen=True)
class AdamWConfig:
    """Decoupled weight decay, on matrices only."""

    kind: ClassVar[str] = "adamw"
    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _positive("optimizer.learning_rate", self.learning_rate)
        _positive("optimizer.epsilon", self.epsilon)
        require(0 <= self.beta1 < 1, "optimizer.beta1", self.beta1, "in [0, 1)")
        require(0 <= self.beta2 < 1, "optimizer.beta2", self.beta2, "in [0, 1)")
        _not_negative("optimizer.weight_decay", self.weight_decay)


@dataclass(frozen=True)
class AdafactorConfig:
    """T5's Adafactor; ``learning_rate`` is relative to each matrix's root mean square."""

    kind: ClassVar[str] = "adafactor"
    learning_rate: float = 1.0
    decay_exponent: float = 0.8
    clip_threshold: float = 1.0
    epsilon1: float = 1e-30
    epsilon2: float = 1e-3
    min_factored: int = 128

    def __post_init__(self) -> None:
        _positive("optimizer.learning_rate", self.learning_rate)
        _positive("optimizer.clip_threshold", self.clip_threshold)
        _positive("optimizer.epsilon1", self.epsilon1)
        _positive("optimizer.epsilon2", self.epsilon2)
        _positive("optimizer.decay_exponent", self.decay_exponent)
        require(self.min_factored >= 2, "optimizer.min_factored", self.min_factored, "at least 2")


OptimizerConfig = AdamWConfig | AdafactorConfig


@dataclass(frozen=True)
class InverseSqrt:
    """``1 / sqrt(max(step, warmup))``: T5's; normalised to 1 at the peak when ``peak_one``."""

    kind: ClassVar[str] = "inverse_sqrt"
    warmup: int = 10_000
    linear_warmup: bool = False
    peak_one: bool = False

    def __post_init__(self) -> None:
        require(self.warmup >= 1, "schedule.warmup", self.warmup, "at least 1")


@dataclass(frozen=True)
class Cosine:
    """Linear warm-up to 1, then half a cosine down to ``floor``."""

    kind: ClassVar[str] = "cosine"
    warmup: int = 100
    floor: float = 0.1

    def __post_init__(self) -> None:
        require(self.warmup >= 0, "schedule.warmup", self.warmup, "at least 0")
        require(0 <= self.floor <= 1, "schedule.floor", self.floor, "in [0, 1]")


ScheduleConfig = InverseSqrt | Cosine


@dataclass(frozen=True)
class TrainConfig:
    """The loop. ``batch_rows`` rows a step, cut into ``micro_batches`` equal parts.

    ``clip_norm`` bounds the global norm of the gradient; 0 leaves it alone.
    """

    steps: int = 1000
    batch_rows: int = 32
    micro_batches: int = 1
    clip_norm: float = 1.0
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: int = 0
    threads: int = 0  # 0: what torch chooses
    eval_every: int = 200
    eval_rows: int = 128
    save_every: int = 500
    recompute: bool = False

    def __post_init__(self) -> None:
        whole = ("steps", "batch_rows", "micro_batches", "eval_every", "eval_rows", "save_every")
        for name in whole:
            require(getattr(self, name) >= 1, f"train.{name}", getattr(self, name), "at least 1")
        require(0 <= self.threads <= 1024, "train.threads", self.threads, "in 0 .. 1024")
        require(0 <= self.seed < 2**63, "train.seed", self.seed, "in 0 .. 2^63 - 1")
        _not_negative("train.clip_norm", self.clip_norm)
        require(
            self.batch_rows % self.micro_batches == 0,
            "train.micro_batches",
            self.micro_batches,
            f"a divisor of train.batch_rows ({self.batch_rows})",
        )

    @property
    def micro_batch_rows(self) -> int:
        return self.batch_rows // self.micro_batches


@dataclass(frozen=True)
class RunConfig:
    """All that a run is, resolved; printed by ``--dry-run`` and kept in every checkpoint."""

    model: ModelConfig
    objective: ObjectiveConfig = field(default_factory=CausalConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=AdamWConfig)
    schedule: ScheduleConfig = field(default_factory=Cosine)
    train: TrainConfig = field(default_factory=TrainConfig)
    out: str = "runs/{preset}"
    preset: str = "custom"

    def __post_init__(self) -> None:
        plain = self.out.replace("{preset}", "")
        require(
            bool(self.out) and "{" not in plain and "}" not in plain,
            "out",
            self.out,
            "the path of a folder; {preset} stands for the preset's name, and no other braces",
        )
        for path, objective in self.objectives().items():
            _check_objective(path, self.model, objective)
        _check_groups(self.model, self.train)

    def objectives(self) -> Mapping[str, ObjectiveConfig]:
        """The run's objective and those of a mixture's sources, by the place they are given in."""
        mixture = self.data.mixture
        sources = () if mixture is None else mixture.sources
        own = {
            f"data.mixture.sources[{number}].objective": source.objective
            for number, source in enumerate(sources)
            if source.objective is not None
        }
        return {"objective": self.objective, **own}


OBJECTIVES_OF = {
    EncoderDecoderConfig.kind: (SpanConfig.kind, PrefixConfig.kind, TextToTextConfig.kind),
    DecoderOnlyConfig.kind: (CausalConfig.kind, PrefixConfig.kind, TextToTextConfig.kind),
}


def _check_objective(path: str, model: ModelConfig, objective: ObjectiveConfig) -> None:
    """Span corruption fills an encoder and a decoder; a single stack predicts the next token."""
    possible = OBJECTIVES_OF[model.kind]
    require(
        objective.kind in possible,
        f"{path}.kind",
        objective.kind,
        f"one of {', '.join(possible)} with model.kind = {model.kind!r}",
        "give the preset its --objective, or take a model of the other kind",
    )
    ignored = objective.kind == TextToTextConfig.kind and objective.visible_prompt
    require(
        not ignored or model.kind == DecoderOnlyConfig.kind,
        f"{path}.visible_inputs",
        True,
        f"false with model.kind = {model.kind!r}",
        "the inputs that an encoder reads see each other anyway",
    )


def _check_groups(model: ModelConfig, train: TrainConfig) -> None:
    """No micro-batch may cut a routing group; the error lists the sizes that do not."""
    rows = 1 if model.moe is None else model.moe.group.rows
    for name in ("batch_rows", "eval_rows"):
        require(
            getattr(train, name) % rows == 0,
            f"train.{name}",
            getattr(train, name),
            f"a multiple of model.moe.group.rows ({rows})",
            "a routing group is never cut",
        )
    if train.micro_batch_rows % rows:
        valid = ", ".join(str(n) for n in _divisors(train.batch_rows // rows))
        raise ConfigError(
            "train.micro_batches",
            train.micro_batches,
            f"one of {valid}",
            f"{train.micro_batch_rows} rows a micro-batch cut a routing group of {rows} rows",
        )


def _divisors(value: int) -> list[int]:
    small = [n for n in range(1, math.isqrt(value) + 1) if value % n == 0]
    return sorted({*small, *(value // n for n in small)})


def _positive(field: str, value: float) -> None:
    require(0 < value < math.inf, field, value, "above 0")


def _not_negative(field: str, value: float) -> None:
    require(0 <= value < math.inf, field, value, "at least 0")
