"""What a run does about bad steps, and when it raises an alarm about its routers."""

from dataclasses import dataclass

from turnout.config.errors import positive, require


@dataclass(frozen=True)
class GuardConfig:
    """Bad steps (a loss or gradient that is not finite) are skipped, as GLaM did (2112.06905).

    After ``max_skipped`` of them in a row the last good checkpoint is loaded and training goes on
    with the batches behind the bad ones; after ``max_rollbacks`` such returns the run stops.
    """

    max_skipped: int = 10
    max_rollbacks: int = 3

    def __post_init__(self) -> None:
        require(self.max_skipped >= 1, "guards.max_skipped", self.max_skipped, "at least 1")
        require(self.max_rollbacks >= 0, "guards.max_rollbacks", self.max_rollbacks, "at least 0")


@dataclass(frozen=True)
class AlarmConfig:
    """When the statistics of a sparse layer mean trouble.

    Attributes:
        on: whether anything is watched.
        act: whether alarms change coefficients, with a record of each change.
        patience: steps in a row that a condition must hold before its alarm.
        repeat: steps after which an alarm that goes on is raised again.
        collapse: experts in effect (exponential of the load's entropy) as a multiple of the
            experts a token takes; at most this is a collapse.
        dead_after: steps without one assignment after which an expert is dead.
        logits: root mean square of the router's log-sum-exp; above it float32 routing saturates.
        drops: share of dropped assignments that is a spike when it is also three times the
            median of the last 100 steps.
        balance: E times the inner product of load and mean probability, 1 when both are even;
            below this the router evades the balance loss.
    """

    on: bool = True
    act: bool = False
    patience: int = 20
    repeat: int = 500
    collapse: float = 1.2
    dead_after: int = 100
    logits: float = 15.0
    drops: float = 0.25
    balance: float = 0.7

    def __post_init__(self) -> None:
        for name in ("patience", "repeat", "dead_after"):
            require(getattr(self, name) >= 1, f"alarms.{name}", getattr(self, name), "at least 1")
        for name in ("collapse", "logits", "drops", "balance"):
            positive(f"alarms.{name}", getattr(self, name))
