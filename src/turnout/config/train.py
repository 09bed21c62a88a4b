"""A run: model, objective, data, optimiser, schedule and the loop around them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from turnout.config.distillation import DistillationConfig
from turnout.config.errors import ConfigError, check_words, not_negative, require
from turnout.config.guards import AlarmConfig, GuardConfig
from turnout.config.lora import LoraConfig
from turnout.config.losses import LossConfig
from turnout.config.mixture import MixtureConfig
from turnout.config.model import DecoderOnlyConfig, EncoderDecoderConfig, ModelConfig
from turnout.config.objective import CausalConfig as CausalConfig
from turnout.config.objective import ObjectiveConfig as ObjectiveConfig
from turnout.config.objective import PrefixConfig as PrefixConfig
from turnout.config.objective import SpanConfig as SpanConfig
from turnout.config.objective import TextToTextConfig as TextToTextConfig
from turnout.config.optimizers import AdamWConfig, OptimizerConfig
from turnout.config.parallel import ParallelPlan, divisors
from turnout.config.routers.base import labels_read
from turnout.config.schedules import Cosine, ScheduleConfig
from turnout.config.start import StartConfig
from turnout.config.tokenizers import BytesConfig, TokenizerConfig


@dataclass(frozen=True)
class DataConfig:
    """Where the text comes from; no path means the standard library of the running Python.

    A path is a file, a folder, a glob, or ``hf:NAME[:SPLIT[:CONFIG]]``. A ``mixture`` has sources
    with paths of their own. ``text_field`` is what holds the text in ``.jsonl``, ``.parquet`` and
    ``hf:`` sources. ``cache`` is where text and tokens are kept; empty means ``~/.cache/turnout``.
    """

    paths: tuple[str, ...] = ()
    validation_share: float = 0.05
    seed: int = 0
    text_field: str = "text"
    tokenizer: TokenizerConfig = field(default_factory=BytesConfig)
    cache: str = ""
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
class TrainConfig:
    """The loop. ``batch_rows`` rows a step, cut into ``micro_batches`` equal parts.

    ``clip_norm`` bounds the global norm of the gradient; 0 leaves it alone. With
    ``expert_gradient = "inverse_sqrt"`` the experts' gradients are first multiplied by
    ``1 / sqrt(E)``, as each expert sees one of E shares of the batch (Artetxe et al. 2021,
    2112.10684). ``average`` above 0 keeps an exponential moving average of the weights with that
    decay, which evaluation and generation use. ``recompute`` computes the activations of a block
    again in the backward pass; ``compile`` compiles each block. With ``save_in_background`` the
    training goes on as soon as what is to be saved is copied, and a thread writes.
    ``trained`` names the weights that change (``train.trained``); the others stay as they are, bit
    for bit. ``patience`` above 0 ends a run after that many evaluations without a better one.
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
    save_in_background: bool = False
    recompute: bool = False
    compile: bool = False
    average: float = 0.0
    expert_gradient: Literal["full", "inverse_sqrt"] = "full"
    trained: tuple[str, ...] = ("all",)
    patience: int = 0

    def __post_init__(self) -> None:
        check_words(self, "train")
        whole = ("steps", "batch_rows", "micro_batches", "eval_every", "eval_rows", "save_every")
        for name in whole:
            require(getattr(self, name) >= 1, f"train.{name}", getattr(self, name), "at least 1")
        require(0 <= self.threads <= 1024, "train.threads", self.threads, "in 0 .. 1024")
        require(0 <= self.seed < 2**63, "train.seed", self.seed, "in 0 .. 2^63 - 1")
        not_negative("train.clip_norm", self.clip_norm)
        require(bool(self.trained), "train.trained", [], "at least one word or pattern")
        require(self.patience >= 0, "train.patience", self.patience, "at least 0; 0 never stops")
        require(0 <= self.average < 1, "train.average", self.average, "in [0, 1); 0 keeps none")
        require(
            self.batch_rows % self.micro_batches == 0,
            "train.micro_batches",
            self.micro_batches,
            f"a divisor of train.batch_rows ({self.batch_rows})",
        )

    def out_of_patience(self, step: int, best: int) -> bool:
        """Whether a run whose best evaluation was after step ``best`` ends after ``step``."""
        return self.patience > 0 and step - best >= self.patience * self.eval_every

    @property
    def micro_batch_rows(self) -> int:
        return self.batch_rows // self.micro_batches


@dataclass(frozen=True)
class RunConfig:
    """All that a run is, resolved; printed by ``--dry-run`` and kept in every checkpoint.

    With ``lora`` adapters train and nothing else.
    """

    model: ModelConfig
    objective: ObjectiveConfig = field(default_factory=CausalConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    start: StartConfig = field(default_factory=StartConfig)
    distillation: DistillationConfig | None = None
    optimizer: OptimizerConfig = field(default_factory=AdamWConfig)
    schedule: ScheduleConfig = field(default_factory=Cosine)
    train: TrainConfig = field(default_factory=TrainConfig)
    guards: GuardConfig = field(default_factory=GuardConfig)
    alarms: AlarmConfig = field(default_factory=AlarmConfig)
    parallel: ParallelPlan = field(default_factory=ParallelPlan)
    lora: LoraConfig | None = None
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
        require(
            self.distillation is None or self.distillation.soft < 1 or self.losses.head_z == 0,
            "losses.head_z",
            self.losses.head_z,
            "0 with distillation.soft = 1, which leaves nothing to the text's own loss",
        )
        require(
            self.lora is None or self.train.trained == ("all",),
            "train.trained",
            list(self.train.trained),
            "left out with lora, whose adapters alone train",
            "choose what they are put on by lora.targets",
        )
        _check_groups(self.model, self.train)
        _check_labels(self.model, self.data)

    def standing_alone(self) -> "RunConfig":
        """The same without what belonged to its own training: where its weights came from, which
        of them changed, adapters, a teacher, how it was laid over ranks, and the product that was
        the fastest on its machine."""
        train = replace(self.train, trained=("all",), patience=0)
        moe = self.model.moe
        return replace(
            self,
            model=replace(self.model, moe=None if moe is None else replace(moe, product="auto")),
            train=train,
            start=StartConfig(),
            lora=None,
            distillation=None,
            parallel=ParallelPlan(),
        )

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
        valid = ", ".join(str(n) for n in divisors(train.batch_rows // rows))
        raise ConfigError(
            "train.micro_batches",
            train.micro_batches,
            f"one of {valid}",
            f"{train.micro_batch_rows} rows a micro-batch cut a routing group of {rows} rows",
        )


def _check_labels(model: ModelConfig, data: DataConfig) -> None:
    """A router that reads labels has one for every source of the mixture."""
    moe = model.moe
    routers = {} if moe is None else {"router": moe.router, "decoder_router": moe.decoder_router}
    for name, router in routers.items():
        known = None if router is None else labels_read(router)
        if router is None or known is None:
            continue
        field, labels = known
        mixture = data.mixture
        if mixture is None:
            raise ConfigError(
                "data.mixture",
                None,
                f"given where model.moe.{name}.kind is {router.kind!r}",
                "the labels that this router reads are the sources of a mixture",
            )
        require(
            len(mixture.sources) <= labels,
            f"model.moe.{name}.{field}",
            labels,
            f"at least {len(mixture.sources)}, the sources of data.mixture",
        )
