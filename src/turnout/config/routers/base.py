"""What every router's configuration answers without building anything."""

from abc import ABC, abstractmethod

from turnout.config.errors import require


class RouterSpec(ABC):
    """The configuration of a router, a frozen dataclass named by its ``kind``."""

    @property
    @abstractmethod
    def active(self) -> int:
        """Experts that compute a token when nothing is dropped: the most of them, where a token
        may have fewer; on average, where experts choose."""

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
