"""Learning-rate schedules: pure functions from the number of finished steps to a factor."""

import math
from functools import singledispatch

from turnout.config.schedules import Constant, Cosine, InverseSqrt, WarmupStableDecay


@singledispatch
def factor(schedule: object, step: int, steps: int) -> float:
    """What multiplies the learning rate.

    Args:
        schedule: the configuration; its type picks the function.
        step: optimiser steps already taken, 0 for the first.
        steps: optimiser steps of the whole run.
    """
    raise TypeError(f"no schedule for {type(schedule).__name__}")


@factor.register
def _inverse_sqrt(schedule: InverseSqrt, step: int, steps: int) -> float:
    """1 / sqrt(max(step, warmup)): T5's flat start and decay."""
    warmup = max(schedule.warmup, 1)
    value = 1 / math.sqrt(max(step, warmup))
    if schedule.linear_warmup:
        value *= min((step + 1) / warmup, 1.0)
    if schedule.peak_one:
        value *= math.sqrt(warmup)
    return value


@factor.register
def _cosine(schedule: Cosine, step: int, steps: int) -> float:
    """Linear to 1 at step ``warmup - 1``, then half a cosine that reaches ``floor`` at the end."""
    if step < schedule.warmup:
        return (step + 1) / schedule.warmup
    span = max(steps - schedule.warmup, 1)
    done = min((step - schedule.warmup) / span, 1.0)
    return schedule.floor + (1 - schedule.floor) * 0.5 * (1 + math.cos(math.pi * done))


@factor.register
def _warmup_stable_decay(schedule: WarmupStableDecay, step: int, steps: int) -> float:
    """Linear to 1, flat, then down to ``floor`` over the last ``decay`` of the run.

    It reaches ``floor`` at ``steps``, behind the last step, as the cosine does.
    """
    length = round(schedule.decay * steps)
    left = steps - step
    if left >= length or length == 0:
        return _warm(schedule.warmup, step)
    share = max(left, 0) / length  # 1 where the decay begins, 0 at the end
    fallen = share if schedule.shape == "linear" else 1 - math.sqrt(1 - share)
    return min(_warm(schedule.warmup, step), schedule.floor + (1 - schedule.floor) * fallen)


@factor.register
def _constant(schedule: Constant, step: int, steps: int) -> float:
    """Linear to 1 at step ``warmup - 1``, and 1 from there."""
    return _warm(schedule.warmup, step)


def _warm(warmup: int, step: int) -> float:
    return min((step + 1) / warmup, 1.0) if warmup else 1.0
