"""From a configuration or a run folder to everything that training and using a model needs."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.utils import _pytree

from turnout import objectives
from turnout.checkpoint import folders
from turnout.checkpoint.read import load_meta
from turnout.config import io
from turnout.config.errors import ConfigError, UserError
from turnout.config.layout import over_ranks
from turnout.config.train import RunConfig
from turnout.convert.folder import is_foreign
from turnout.convert.hub import located
from turnout.data import pipeline
from turnout.data.pipeline import Data
from turnout.data.progress import Progress
from turnout.data.tokenizers import Tokenizer
from turnout.data.tokenizers import load as tokenizers
from turnout.models import adapters
from turnout.models.base import Model
from turnout.models.build import build as build_model
from turnout.moe.products import ProductShape, choose, usable
from turnout.objectives import LanguageObjective
from turnout.train.hash_tables import fill_hash_tables
from turnout.train.precision import compute_dtype
from turnout.train.ranks import Alone, Ranks, same
from turnout.train.start import Begun, begin
from turnout.train.state import TrainState, load_model, resume
from turnout.train.teacher import open_lesson
from turnout.train.trained import (
    Trained,
    choose_trained,
    measured_loads,
    resolve_top,
    wants_loads,
)
from turnout.train.zero_gradient import check_coefficients

LOAD_STEPS = 8  # steps whose batches say which experts are used most


@dataclass(frozen=True)
class Session:
    """A run, ready to train: its parts, and why its dtype and its product are what they are.

    ``config`` names the product that ``auto`` chose, so that a checkpoint does and a resumed run
    computes as the first one did; and the experts that ``experts:top25%`` came to mean.

    Attributes:
        begun: where the weights of a new run came from.
        trained: which of them change.
    """

    config: RunConfig
    data: Data
    state: TrainState
    objective: LanguageObjective
    dtype: torch.dtype
    dtype_reason: str
    product_reason: str
    begun: Begun
    trained: Trained
    adapted: adapters.Report | None


def open_session(
    config: RunConfig,
    checkpoint: Path | str | None = None,
    progress: Progress | None = None,
    connect: Callable[[], Ranks] = Alone,
) -> Session:
    """Read the data, build and fill the model: freshly, or from ``checkpoint`` to go on.

    Args:
        checkpoint: a run's folder, for its newest checkpoint, or one of its step folders.
        progress: is told of work on the text that takes time; nobody by default.
        connect: joins the other processes of the run; called when text and weights are there.

    Raises:
        UserError: anything about data, configuration or checkpoint that cannot be.
    """
    set_threads(config)
    checkpoint = None if checkpoint is None else folders.latest(checkpoint)
    config = pinned(config) if checkpoint is None else config
    data = pipeline.build(config, _earlier_tokenizer(config, checkpoint), progress)
    if checkpoint is not None:
        _same_text(data, checkpoint)
    config, product_reason = with_product(config, data)
    model, dtype, reason = _built(config)
    begun = Begun()
    if checkpoint is None:
        model.init_weights(config.train.seed)
        fill_hash_tables(model, data)
        begun = begin(model, config.start)
        config = _with_top(config, model, data)
    adapted = _adapted(model, config)
    trained = _trained(config, model)
    lesson = open_lesson(config, data, dtype, load_tokenizer, progress)
    objective = objectives.build(config.losses, config.model, lesson)
    ranks = connect()
    over_ranks(config, ranks.size)
    if ranks.size > 1:
        same(ranks.messages, _found_here(config, data, dtype))
        _check_first(config, model, objective, data, checkpoint)
        objective = objective.over(ranks.whole_sums)
        ranks.lay_out(model)
    state = TrainState.fresh(config, model, ranks, trained.still)
    if config.train.compile:
        compile_blocks(model)
    if checkpoint is not None:
        try:
            resume(state, config, checkpoint)
        except (KeyError, TypeError, AttributeError, NotImplementedError) as error:
            raise UserError(
                f"{checkpoint}: not written by this version of Turnout ({error!r})"
            ) from error
    reasons = (reason, product_reason)
    return Session(config, data, state, objective, dtype, *reasons, begun, trained, adapted)


def _earlier_tokenizer(config: RunConfig, checkpoint: Path | None) -> Tokenizer | None:
    """That of the checkpoint, or of the run that the weights are taken from."""
    if checkpoint is not None:
        return load_tokenizer(checkpoint, config)
    teacher = "" if config.distillation is None else config.distillation.teacher
    return tokenizer_of(config.start.path or teacher, config)


def tokenizer_of(path: str, config: RunConfig) -> Tokenizer | None:
    """That of a run's folder; None without a path, and of a Hugging Face folder, whose tokenizer
    the configuration names.

    Raises:
        UserError: as ``load_tokenizer``.
    """
    folder = path and located(path)
    return load_tokenizer(folder, config) if folder and not is_foreign(folder) else None


def pinned(config: RunConfig) -> RunConfig:
    """A new run's start and teacher as the checkpoints that they are now: their runs may go on.

    Raises:
        CheckpointError: there is none.
    """
    start, lesson = config.start, config.distillation
    config = replace(config, start=replace(start, path=_step(start.path)))
    if lesson is None:
        return config
    return replace(config, distillation=replace(lesson, teacher=_step(lesson.teacher)))


def _step(path: str) -> str:
    folder = path and located(path)
    return str(folders.latest(folder)) if folder and not is_foreign(folder) else path


def _with_top(config: RunConfig, model: Model, data: Data) -> RunConfig:
    """``experts:top25%`` as the experts that the first steps' batches load most."""
    words = config.train.trained
    if not wants_loads(words):
        return config
    batches = [batch for step in range(LOAD_STEPS) for batch in data.micro_batches(step)]
    resolved = resolve_top(model, words, measured_loads(model, batches))
    return replace(config, train=replace(config.train, trained=resolved))


def _trained(config: RunConfig, model: Model) -> Trained:
    if config.lora is not None:
        return Trained.of(model)  # the adapters, whatever they are on
    trained = choose_trained(model, config.train.trained)
    decay = getattr(config.optimizer, "weight_decay", 0.0)
    if trained.still and decay:
        raise ConfigError(
            "optimizer.weight_decay", decay, "0 where only some experts of a stack train"
        )
    return trained


def _found_here(config: RunConfig, data: Data, dtype: torch.dtype) -> dict[str, str]:
    """What this machine's files and its processor decide."""
    moe = config.model.moe
    return {
        "data.paths": f"text with sha256 {data.summary.sha256[:12]}",
        "train.dtype": str(dtype).removeprefix("torch."),
        "model.moe.product": "none" if moe is None else moe.product,
    }


def _check_first(
    config: RunConfig,
    model: Model,
    objective: LanguageObjective,
    data: Data,
    checkpoint: Path | None,
) -> None:
    """No loss is on in name alone: looked at in the first rows, while the model is whole."""
    if checkpoint is None:
        group = 1 if config.model.moe is None else config.model.moe.group.rows
        first = _pytree.tree_map(
            lambda leaf: leaf[:group] if isinstance(leaf, torch.Tensor) else leaf,
            data.micro_batches(0)[0],
        )
        check_coefficients(model, objective, [first])


def saved_config(run: Path | str) -> RunConfig:
    """The configuration in the newest checkpoint of a run folder."""
    return io.from_dict(RunConfig, load_meta(folders.latest(run))["config"])


def load_run(run: Path | str, config: RunConfig | None = None) -> tuple[RunConfig, Model]:
    """The model of a run's newest checkpoint, in evaluation mode; the average if it keeps one, and
    with its adapters merged if it trains any.

    Args:
        config: what to build instead of the saved configuration, for another data path or dtype.
    """
    config = saved_config(run) if config is None else config
    set_threads(config)
    model, _, _ = _built(config)
    _adapted(model, config)
    load_model(model, folders.latest(run), average=config.train.average > 0)
    adapters.merge(model).eval()
    return config, model


def compile_blocks(model: Model) -> None:
    """Compile the blocks of a model, each by itself: the time grows with their kinds alone.

    Raises:
        UserError: there is no C++ compiler, which torch needs for the CPU.
    """
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise UserError("train.compile = true: needs a C++ compiler; install g++, or leave it out")
    for stack in model.stacks():
        stack.compile_blocks()


def load_tokenizer(run: Path | str, config: RunConfig | None = None) -> Tokenizer:
    """The tokenizer that a run's newest checkpoint was trained with.

    Args:
        config: what is to be built instead of the saved configuration.

    Raises:
        UserError: the tokenizer cannot be found, or ``config`` asks for another one.
    """
    checkpoint = folders.latest(run)
    meta = load_meta(checkpoint)
    saved = io.from_dict(RunConfig, meta["config"]).data.tokenizer
    tokenizer = tokenizers.restore(saved, checkpoint.parent.parent, meta.get("tokenizer"))
    asked = saved if config is None else config.data.tokenizer
    if asked != saved:
        tokenizers.require_same(asked, tokenizer, str(checkpoint))
    return tokenizer


def set_threads(config: RunConfig) -> None:
    """Give torch as many threads as configured; 0 leaves its own choice."""
    if config.train.threads > 0:
        torch.set_num_threads(config.train.threads)


def _same_text(data: Data, checkpoint: Path) -> None:
    """Refuses to go on with other text: its split may show the run what was held out.

    Raises:
        UserError: the text differs from what the run was trained on.
    """
    saved = str(load_meta(checkpoint).get("text"))
    if data.summary.sha256 != saved:
        raise UserError(
            f"data.paths: the text (sha256 {data.summary.sha256[:12]}) is not what {checkpoint} "
            f"was trained on ({saved[:12]}); restore it, or start a new run"
        )


def with_product(config: RunConfig, data: Data) -> tuple[RunConfig, str]:
    """The configuration with the product that ``auto`` takes for a micro-batch, and why."""
    moe = config.model.moe
    if moe is None or moe.product != "auto":
        return config, "as configured"
    dtype, _ = compute_dtype(config.train.dtype, torch.device("cpu"))
    batch = data.micro_batches(0)[0]
    longer = batch.decoder if batch.encoder is None else batch.encoder
    rows = longer.ids.numel() * moe.router.candidates(moe.num_experts)
    width = config.model.attention.q_width
    if moe.in_feed_forward:
        width = moe.expert_ffn(config.model.feed_forward).d_ff
    shape = ProductShape(
        rows, moe.num_experts, config.model.d_model, width, dtype, longer.ids.device.type
    )
    choice = choose(shape)
    model = replace(config.model, moe=replace(moe, product=choice.backend))
    buildable = usable("native", shape) and choice.backend != "native"
    hint = "; `turnout doctor --build` builds a faster one" if buildable else ""
    return replace(config, model=model), choice.why + hint


def _adapted(model: Model, config: RunConfig) -> adapters.Report | None:
    """Puts the adapters there that the run trains; None where it trains none."""
    lora = config.lora
    return None if lora is None else adapters.adapt(model, lora, config.train.seed)


def _built(config: RunConfig) -> tuple[Model, torch.dtype, str]:
    dtype, reason = compute_dtype(config.train.dtype, torch.device("cpu"))
    model = build_model(config.model, dtype=dtype, recompute=config.train.recompute)
    return model, dtype, reason
