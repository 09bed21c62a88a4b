"""What a property is: a question, and a function that answers it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from turnout.conformance.samples import context, ragged, states
from turnout.conformance.subject import Seen, Setting, Subject

TOLERANCE = 1e-5  # of a tensor's largest entry, in float32


class Broken(Exception):
    """A property does not hold; the message says what was seen."""


class NotAsked(Exception):
    """A property does not apply; the message says why."""


@dataclass(frozen=True)
class Property:
    """A property by name; ``check`` returns what it measured, or raises Broken or NotAsked.

    Attributes:
        white_box: whether it looks into the layer, which foreign ones do not allow.
    """

    name: str
    check: Callable[[Subject], str]
    white_box: bool = False


def require(holds: bool, seen: str) -> None:
    """Raises Broken unless ``holds``."""
    if not holds:
        raise Broken(seen)


def difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest entry of ``expected``; infinite where one is NaN."""
    if found.shape != expected.shape:
        return float("inf")
    if not found.numel():
        return 0.0
    gap = (found.double() - expected.double()).abs().max()
    scale = expected.double().abs().max().clamp(min=1e-12)
    worst = float((gap / scale).detach())
    return worst if worst == worst else float("inf")


def close(found: Tensor, expected: Tensor, what: str, tolerance: float = TOLERANCE) -> float:
    """The difference; raises Broken where it is beyond the tolerance."""
    gap = difference(found, expected)
    require(gap <= tolerance, f"{what} differs by {gap:.2g} of its scale")
    return gap


def look(subject: Subject, setting: Setting, *, training: bool, seed: int = 0) -> Seen:
    """A new layer on the usual ragged batch."""
    layer = subject.layer(setting).train(training)
    return subject.see(layer, states(subject.d_model, seed=seed), context(ragged()))


def sums(seen: Seen) -> dict[str, Tensor]:
    """The additive sums of a report, a row a group; empty where there is none."""
    if seen.stats is None:
        return {}
    router = {f"router.{k}": v for k, v in vars(seen.stats.router).items()}
    return {**router, "kept": seen.stats.kept, "unrouted": seen.stats.unrouted}


def same_sums(found: dict[str, Tensor], expected: dict[str, Tensor], where: str) -> None:
    """Raises Broken where sums differ: counts at all, float sums beyond the tolerance."""
    for name, value in expected.items():
        if value.dtype == torch.int64:
            require(
                torch.equal(found[name], value),
                f"{name} is {int(found[name].sum())} {where}, {int(value.sum())} before",
            )
        else:
            close(found[name], value, f"{name} {where}")
