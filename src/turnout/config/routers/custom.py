"""A router of the user's own, named by its class."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from turnout.config.errors import require
from turnout.config.routers.base import RouterSpec, at_least

Scalar = bool | int | float | str
_TARGET = re.compile(r"[\w.]+:\w+")


@dataclass(frozen=True)
class CustomRouter(RouterSpec):
    """``target`` is ``module:Class``; the class is called with a RouterShape and ``options``.

    The name alone imports nothing: a command line, the user's own TOML or ``register_router``
    brings the class in, a checkpoint never does. ``k`` is how many experts a token names, and
    ``parameters`` how many the router trains; none stands for one matrix, d_model x num_experts.
    """

    kind: ClassVar[str] = "custom"
    target: str
    k: int = 1
    parameters: int | None = None
    options: Mapping[str, Scalar] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        require(
            _TARGET.fullmatch(self.target) is not None,
            "router.target",
            self.target,
            "package.module:Class",
        )
        require(self.k >= 1, "router.k", self.k, "at least 1")
        require(
            self.parameters is None or self.parameters >= 0,
            "router.parameters",
            self.parameters,
            "at least 0, or none for one matrix",
        )

    @property
    def active(self) -> int:
        return self.k

    def candidates(self, num_experts: int) -> int:
        return self.k

    def check(self, num_experts: int) -> None:
        at_least(self.k, num_experts, self.kind)

    def num_params(self, d_model: int, num_experts: int) -> int:
        return d_model * num_experts if self.parameters is None else self.parameters
