"""A run: model, objective, data, optimiser, schedule and the loop around them."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from turnout.config.errors import require
from turnout.config.model import ModelConfig

BalanceVariant = Literal["switch", "all_choices", "flaxformer", "lingvo", "mixtral", "deepseek"]
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
            require(getattr(self, name) >= 0, f"losses.{name}", getattr(self, name), "at least 0")


@dataclass(frozen=True)
class CausalConfig:
    """Predict the next token."""

    kind: ClassVar[str] = "causal"


@dataclass(frozen=True)
class SpanConfig:
    """T5's span corruption: mask ``noise_density`` of the tokens in spans of ``mean_span``."""

    kind: ClassVar[str] = "span"
    noise_density: float = 0.15
    mean_span: float = 3.0

    def __post_init__(self) -> None:
        require(
            0 < self.noise_density < 1, "objective.noise_density", self.noise_density, "in (0, 1)"
        )
        require(self.mean_span >= 1, "objective.mean_span", self.mean_span, "at least 1")


ObjectiveConfig = CausalConfig | SpanConfig


@dataclass(frozen=True)
class DataConfig:
    """Where the text comes from; no path means the standard library of the running Python."""

    paths: tuple[str, ...] = ()
    validation_share: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        require(
            0 < self.validation_share < 1,
            "data.validation_share",
            self.validation_share,
            "in (0, 1)",
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
        require(self.learning_rate > 0, "optimizer.learning_rate", self.learning_rate, "above 0")


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
        require(self.learning_rate > 0, "optimizer.learning_rate", self.learning_rate, "above 0")


OptimizerConfig = AdamWConfig | AdafactorConfig


@dataclass(frozen=True)
class InverseSqrt:
    """``1 / sqrt(max(step, warmup))``: T5's; normalised to 1 at the peak when ``peak_one``."""

    kind: ClassVar[str] = "inverse_sqrt"
    warmup: int = 10_000
    linear_warmup: bool = False
    peak_one: bool = False


@dataclass(frozen=True)
class Cosine:
    """Linear warm-up to 1, then half a cosine down to ``floor``."""

    kind: ClassVar[str] = "cosine"
    warmup: int = 100
    floor: float = 0.1


ScheduleConfig = InverseSqrt | Cosine


@dataclass(frozen=True)
class TrainConfig:
    """The loop. ``batch_rows`` rows a step, cut into ``micro_batches`` equal parts."""

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
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch_rows", "micro_batches", "eval_every", "eval_rows"):
            require(getattr(self, name) >= 1, f"train.{name}", getattr(self, name), "at least 1")
        require(
            self.batch_rows % self.micro_batches == 0,
            "train.micro_batches",
            self.micro_batches,
            f"a divisor of train.batch_rows ({self.batch_rows})",
        )


@dataclass(frozen=True)
class RunConfig:
    """All that a run is, resolved; printed by ``--dry-run`` and kept in every checkpoint."""

    model: ModelConfig
    objective: ObjectiveConfig = CausalConfig()
    losses: LossConfig = LossConfig()
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = AdamWConfig()
    schedule: ScheduleConfig = Cosine()
    train: TrainConfig = field(default_factory=TrainConfig)
    out: str = "runs/{preset}"
    preset: str = "custom"
