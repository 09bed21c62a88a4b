"""Models of transformers on each of its implementations of experts, and on ours.

Mixtral, OLMoE and Qwen3-MoE in their published proportions at a width of 512, with as many experts
as asked for. Forward, language loss and backward. Three dtypes: float32; bfloat16 by autocast over
float32 weights; the whole model in bfloat16.

Every implementation has a process of its own, since what one leaves in the allocator's hands
decides how often another must ask for fresh memory; they take turns within each repeat. The text
differs from step to step, so that loads do. Losses and the norm of the experts' gradients on one
text are compared before anything is timed. ``batched_mm`` copies an expert's weights for every
choice of every token and is left out where that has no room.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import ClassVar, final

import torch

from turnout.bench.equal import UnequalError
from turnout.bench.machine import Rates
from turnout.bench.options import BOTH, Options
from turnout.bench.peers.installed import INSTALL, installed
from turnout.bench.peers.transformers_moe import FAMILIES, LENGTH, Done, Work, Worker, workers
from turnout.bench.suite import Cells, Contest, Suite
from turnout.bench.timing import Times
from turnout.config.errors import UserError

OURS, THEIRS = "turnout", ("eager", "batched_mm", "grouped_mm")
BOUNDS = {"float32": (1e-4, 1e-3), "autocast": (2e-2, 5e-2), "bfloat16": (2e-2, 5e-2)}
"""Of a loss in nats, and of the norm of the experts' gradients over that norm."""


@final
@dataclass(frozen=True)
class ExpertsSuite(Suite):
    """One contest for every dtype, mode, number of tokens and of experts, and family."""

    name: ClassVar[str] = "experts"

    def contests(self, options: Options) -> Iterator[Contest]:
        """As ``Suite.contests``.

        Raises:
            UserError: transformers is not there, or a token has more experts than there are.
        """
        check(options)
        for dtype, mode, tokens, experts, family in product(
            options.dtypes, options.modes, options.tokens, options.experts, FAMILIES
        ):
            sizes = (options.width, options.layers)
            work = Work(
                family, experts, tokens, *sizes, dtype, mode == BOTH, torch.get_num_threads()
            )
            names, left_out = _taking_part(work, options)
            with workers(names, work) as processes:
                yield contest(work, processes, left_out)


def check(options: Options) -> None:
    """Whether there is something to measure.

    Raises:
        UserError: there is not.
    """
    if not installed("transformers"):
        raise UserError(f"the suite experts times transformers, which is not installed; {INSTALL}")
    least = max(family.k for family in FAMILIES.values())
    for experts in options.experts:
        if experts < least:
            raise UserError(f"--experts {experts}: must be at least {least}, those of a token")
    for tokens in options.tokens:
        if tokens % LENGTH:
            raise UserError(f"--tokens {tokens}: must be a multiple of {LENGTH}, a row's tokens")


def contest(work: Work, processes: Mapping[str, Worker], left_out: Mapping[str, str]) -> Contest:
    """All implementations, their first steps compared.

    Raises:
        UnequalError: one of theirs differs from ours.
    """
    first = {name: worker.step() for name, worker in processes.items()}
    family = FAMILIES[work.family]
    return Contest(
        facts={
            "model": work.family,
            "experts": f"{family.k} of {work.experts} x {work.hidden}",
            "dtype": work.dtype,
            "mode": "forward+backward" if work.backward else "forward",
            "tokens": work.tokens,
        },
        dtype=torch.float32 if work.dtype == "float32" else torch.bfloat16,
        ways={name: worker.step for name, worker in processes.items()},
        bases=(OURS,),
        differences=compared(first, work.dtype),
        left_out=left_out,
        patience=4.0,
        cells=_best,
    )


def compared(first: Mapping[str, Done], dtype: str) -> dict[str, float]:
    """How far each loss of theirs is from ours, in nats.

    Raises:
        UnequalError: a loss, or the norm of the gradients, is too far.
    """
    ours, (nats, share) = first[OURS], BOUNDS[dtype]
    for name, done in first.items():
        if not abs(done.loss - ours.loss) <= nats:
            raise UnequalError(f"{name}: the loss is {done.loss}, ours {ours.loss}")
        if not abs(done.norm - ours.norm) <= share * ours.norm:
            raise UnequalError(f"{name}: the gradients' norm is {done.norm}, ours {ours.norm}")
    return {name: abs(done.loss - ours.loss) for name, done in first.items() if name != OURS}


def _taking_part(work: Work, options: Options) -> tuple[list[str], dict[str, str]]:
    """Implementations, ours first, and those without room."""
    theirs = THEIRS if options.peers else ()
    if work.copied / 1e9 <= options.room:
        return [OURS, *theirs], {}
    reason = f"copies {work.copied / 1e9:.1f} GB of weights a layer; --room {options.room:g}"
    left = [name for name in theirs if name != "batched_mm"]
    return [OURS, *left], {"batched_mm": reason} if theirs else {}


def _best(times: Times, rates: Rates) -> Cells:
    """The fastest of theirs over ours."""
    theirs = [name for name in times.seconds if name in THEIRS]
    if not theirs:
        return {}
    best = min(theirs, key=lambda name: times.spread(name).median)
    return {OURS: {"best of theirs": f"{best}, {times.ratio(best, OURS)}"}}
