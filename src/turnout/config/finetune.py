"""Fine-tuning as a run: what the papers advise, over the configuration that a model came with."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from turnout.config.errors import UserError, nearest
from turnout.config.model import ModelConfig
from turnout.config.objective import ObjectiveConfig
from turnout.config.optimizers import AdafactorConfig, OptimizerConfig
from turnout.config.schedules import Constant
from turnout.config.start import StartConfig
from turnout.config.train import DataConfig, RunConfig, TrainConfig


@dataclass(frozen=True)
class Recipe:
    """How a model is fine-tuned.

    Attributes:
        summary: one line, with the source.
        dropout: everywhere but in the experts.
        expert_dropout: on the experts' hidden activation.
        adafactor: the learning rate of models that were trained with Adafactor.
        adamw: the same of AdamW, as a share of the rate that they were trained with.
        rows: of a batch.
    """

    summary: str
    dropout: float
    expert_dropout: float
    adafactor: float
    adamw: float
    rows: int


# ST-MoE, 2202.08906, section 5.3 and table 20: sparse models want smaller batches and higher rates
# than dense ones (sparse best at 1e-3, dense at 1e-4, with Adafactor); Switch Transformers,
# 2101.03961, table 4: dropout 0.1, and 0.4 within the experts. The shares of AdamW are ours.
RECIPES: Final[Mapping[str, Recipe]] = MappingProxyType(
    {
        "sparse": Recipe(
            "dropout 0.1, in experts 0.4 (Switch table 4); rate 1e-3 (ST-MoE table 20)",
            dropout=0.1,
            expert_dropout=0.4,
            adafactor=1e-3,
            adamw=0.2,
            rows=16,
        ),
        "dense": Recipe(
            "dropout 0.1; rate 1e-4, larger batches (ST-MoE table 20)",
            dropout=0.1,
            expert_dropout=0.0,
            adafactor=1e-4,
            adamw=0.1,
            rows=32,
        ),
        "plain": Recipe(
            "no dropout; the rate of `sparse`",
            dropout=0.0,
            expert_dropout=0.0,
            adafactor=1e-3,
            adamw=0.2,
            rows=16,
        ),
    }
)
FOREIGN_RATE = 5e-5  # of AdamW, where nobody says at which rate the model was trained
STEPS, EVERY, PATIENCE, SHARE = 500, 50, 4, 0.1


def recipe_of(name: str | None, model: ModelConfig) -> Recipe:
    """The recipe of that name, or the one for such a model.

    Raises:
        UserError: there is none.
    """
    name = name or ("dense" if model.moe is None else "sparse")
    if name not in RECIPES:
        raise UserError(f"--recipe {name}: {nearest(name, RECIPES)}")
    return RECIPES[name]


def finetuned(
    source: RunConfig,
    path: str,
    recipe: Recipe,
    data: tuple[str, ...],
    objective: ObjectiveConfig,
    foreign: bool = False,
) -> RunConfig:
    """The run that fine-tunes the model at ``path``.

    Args:
        source: the configuration in that folder.
        data: files and folders.
        foreign: whether the folder does not say how the model was trained.
    """
    train = replace(
        source.train,
        steps=STEPS,
        batch_rows=_rows(source.model, recipe.rows),
        micro_batches=1,
        eval_every=EVERY,
        save_every=STEPS,
        patience=PATIENCE,
        average=0.0,
        trained=("all",),
    )
    return replace(
        source,
        model=_with_dropout(source.model, recipe),
        objective=objective,
        data=DataConfig(
            paths=data,
            validation_share=SHARE,
            tokenizer=source.data.tokenizer,
            cache=source.data.cache,
        ),
        start=StartConfig(path),
        optimizer=_optimizer(source.optimizer, recipe, foreign),
        schedule=Constant(warmup=EVERY // 2),
        train=_evaluated(train, source.model),
        out="runs/finetune-{preset}",
    )


def _rows(model: ModelConfig, rows: int) -> int:
    """Of a batch, in whole routing groups."""
    group = 1 if model.moe is None else model.moe.group.rows
    return max(rows // group, 1) * group


def _evaluated(train: TrainConfig, model: ModelConfig) -> TrainConfig:
    return replace(train, eval_rows=_rows(model, train.eval_rows))


def _with_dropout(model: ModelConfig, recipe: Recipe) -> ModelConfig:
    moe = model.moe
    if moe is not None and moe.in_feed_forward:
        moe = replace(moe, expert_dropout=recipe.expert_dropout)
    return replace(model, dropout=recipe.dropout, moe=moe)


def _optimizer(source: OptimizerConfig, recipe: Recipe, foreign: bool) -> OptimizerConfig:
    if isinstance(source, AdafactorConfig):
        return replace(source, learning_rate=recipe.adafactor)
    rate = FOREIGN_RATE if foreign else recipe.adamw * source.learning_rate
    return replace(source, learning_rate=rate, weight_decay=0.0)
