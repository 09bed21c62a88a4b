"""What an alarm may change of itself: the coefficient that answers it, doubled within bounds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from turnout.config.losses import LossConfig
from turnout.train.alarms import Alarm, AlarmName

# The coefficient that answers an alarm, and its value where the run has it off.
_ANSWERS: Mapping[AlarmName, tuple[str, float]] = {
    "collapse": ("balance", 0.01),
    "dead": ("balance", 0.01),
    "logits": ("router_z", 0.001),
    "balance": ("router_z", 0.001),
}
_MOST = 10.0  # times the configured coefficient


@dataclass(frozen=True)
class Action:
    """A coefficient that an alarm changed, from the next step on."""

    alarm: Alarm
    coefficient: str
    before: float
    after: float

    @property
    def text(self) -> str:
        return (
            f"losses.{self.coefficient} {self.before:g} -> {self.after:g}, because of "
            f"{self.alarm.name}"
        )


def answer(
    alarms: Sequence[Alarm], losses: LossConfig, changed: Mapping[str, float]
) -> tuple[Action, ...]:
    """The changes that ``alarms`` call for, one a coefficient; drops call for none.

    Args:
        losses: as configured.
        changed: coefficients that earlier actions set.
    """
    actions: dict[str, Action] = {}
    for alarm in alarms:
        name, default = _ANSWERS.get(alarm.name, ("", 0.0))
        if not name or name in actions:
            continue
        configured = getattr(losses, name)
        before = changed.get(name, configured)
        after = min(2 * before, _MOST * (configured or default)) if before else default
        if after > before:
            actions[name] = Action(alarm, name, before, after)
    return tuple(actions.values())


def with_coefficients(losses: LossConfig, changed: Mapping[str, float]) -> LossConfig:
    """``losses`` with what actions changed."""
    return replace(
        losses,
        balance=changed.get("balance", losses.balance),
        router_z=changed.get("router_z", losses.router_z),
    )
