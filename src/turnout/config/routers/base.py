"""What every router's configuration answers without building anything."""

from abc import ABC, abstractmethod
from functools import singledispatch
from typing import ClassVar

from turnout.config.errors import require


class RouterSpec(ABC):
    """The configuration of a router, a frozen dataclass named by its ``kind``.

    Attributes:
        starts_dense: whether a token may at first take all experts, more than ``active``, so that
            capacity is a share of all.
    """

    starts_dense: ClassVar[bool] = False

    @property
    @abstractmethod
    def active(self) -> int:
        """Experts that compute a token when nothing is dropped: the most of them, where a token
        may have fewer; on average, where experts choose; at last, where a router starts dense."""

    @abstractmethod
    def candidates(self, num_experts: int) -> int:
        """Entries that a token takes in the table of assignments, used or not."""

    @abstractmethod
    def num_params(self, d_model: int, num_experts: int) -> int:
        """Trained parameters."""

    @abstractmethod
    def check(self, num_experts: int) -> None:
        """Raises ConfigError where this router cannot route to ``num_experts``."""


def at_least(choices: int, num_experts: int, kind: str) -> None:
    """Raises ConfigError unless a token's ``choices`` can be different experts."""
    require(
        choices <= num_experts,
        "moe.num_experts",
        num_experts,
        f"at least {choices}, the choices of the router ({kind})",
        "add experts or let the router choose fewer",
    )


@singledispatch
def router_flops(router: RouterSpec, d_model: int, num_experts: int) -> int:
    """Arithmetic of routing one token: a product with every parameter, unless a router's file
    registers what else it is."""
    return 2 * router.num_params(d_model, num_experts)


@singledispatch
def labels_read(router: RouterSpec) -> tuple[str, int] | None:
    """The field that holds how many labels a router knows, and its value; None for routers that
    read no labels."""
    return None
