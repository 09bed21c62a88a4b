"""``--parallel auto``: the layout that the plan ranks first. Imports no torch."""

from collections.abc import Iterable

from turnout.config import io
from turnout.config.train import RunConfig
from turnout.plan.hardware import Assumptions, device_of
from turnout.plan.search import Question, choose

SEARCHED = ("train.micro_batches", "train.recompute")


def laid_out(config: RunConfig, ranks: int, device: str, given: Iterable[str]) -> RunConfig:
    """The run laid over ``ranks`` devices as ``turnout plan`` would; each rank finds the same.

    Args:
        given: dotted names that the user has decided, which stay.

    Raises:
        ConfigError: no layout is valid.
        UserError: none fits, or there is no such device.
    """
    dtype = "bfloat16" if config.train.dtype == "auto" else config.train.dtype
    question = Question(
        config=io.override(config, {"train.dtype": dtype}),
        ranks=ranks,
        device=device_of(device),
        assumed=Assumptions(),
        fixed=decided(given),
    )
    best = choose(question).config
    return io.override(best, {"train.dtype": config.train.dtype})


def decided(given: Iterable[str]) -> frozenset[str]:
    """Of dotted names those that a plan must not change."""
    return frozenset(name for name in given if name.startswith("parallel.") or name in SEARCHED)
