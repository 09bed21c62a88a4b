"""What would make a run fit where no layout does: each proposal is tried before it is made."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from turnout.config import io
from turnout.config.errors import ConfigError, UserError
from turnout.config.optimizers import AdafactorConfig
from turnout.plan.hardware import DEVICES
from turnout.plan.search import MAX_RANKS, Question, smallest

_DOUBLINGS = 8


@dataclass(frozen=True)
class Remedy:
    """What to change, in words and as options of ``turnout plan``."""

    words: str
    options: tuple[str, ...]


def remedies(question: Question) -> list[Remedy]:
    """Proposals with which some layout fits, one of each kind; none if nothing found does."""
    found = []
    for kind in (_optimizer(question), _precision(question), _devices(question), _more(question)):
        for changed, remedy in kind:
            if _fits(changed):
                found.append(remedy)
                break
    return found


def _fits(question: Question) -> bool:
    try:
        return smallest(question).fits
    except ConfigError:
        return False


def _optimizer(question: Question) -> Iterator[tuple[Question, Remedy]]:
    if question.config.optimizer.kind != AdafactorConfig.kind:
        config = replace(question.config, optimizer=AdafactorConfig())
        words = "Adafactor keeps means of rows and columns where AdamW keeps two copies"
        yield replace(question, config=config), Remedy(words, ("--optimizer", "adafactor"))


def _precision(question: Question) -> Iterator[tuple[Question, Remedy]]:
    if question.config.train.dtype == "float32":
        config = io.override(question.config, {"train.dtype": "bfloat16"})
        words = "activations take half as much in bfloat16"
        yield replace(question, config=config), Remedy(words, ("--train.dtype", "bfloat16"))


def _devices(question: Question) -> Iterator[tuple[Question, Remedy]]:
    """The same number of a device with more memory, the smallest first."""
    for device in sorted(DEVICES.values(), key=lambda each: each.memory):
        if device.memory > question.device.memory and device.name != "cpu":
            words = f"{device.name}: {device.memory / 1e9:.0f} GB a device"
            yield replace(question, device=device), Remedy(words, ("--device", device.name))


def _more(question: Question) -> Iterator[tuple[Question, Remedy]]:
    """Twice, four times .. as many devices, with as many rows as they need at least."""
    config = question.config
    group = 1 if config.model.moe is None else config.model.moe.group.rows
    for power in range(1, _DOUBLINGS + 1):
        ranks = question.ranks << power
        if ranks > MAX_RANKS:
            return
        options, changed = ["--devices", str(ranks)], config
        least = ranks * group
        if config.train.batch_rows < least:
            options += ["--train.batch-rows", str(least)]
            if "train.micro_batches" in question.fixed:
                options += ["--train.micro-batches", "1"]
            try:
                rows = {"train.batch_rows": str(least), "train.micro_batches": "1"}
                changed = io.override(config, rows)
            except UserError:
                continue
        words = f"{ranks:,} devices share out weights, gradients and optimiser state"
        yield replace(question, config=changed, ranks=ranks), Remedy(words, tuple(options))
