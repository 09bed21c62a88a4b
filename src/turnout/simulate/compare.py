"""The plan beside the simulation, line by line."""

from collections import Counter
from dataclasses import dataclass

from turnout.config.parallel import ParallelPlan
from turnout.config.train import RunConfig
from turnout.plan.communication import collectives
from turnout.plan.memory import memory
from turnout.plan.work import work_of
from turnout.simulate.step import StepCost

COMPONENTS = ("weights", "gradients", "optimiser", "casts", "dispatch", "activations")
"""What both count: the plan's other components are moments of the backward pass."""


@dataclass(frozen=True)
class Line:
    """Bytes of a component, or the number of calls of one kind of collective."""

    what: str
    planned: int
    simulated: int

    @property
    def apart(self) -> float:
        """How far the plan is off, as a share of what was simulated."""
        if self.planned == self.simulated:
            return 0.0
        return self.planned / self.simulated - 1 if self.simulated else float("inf")


@dataclass(frozen=True)
class Comparison:
    """Of the balanced plan with a step whose load is even."""

    memory: tuple[Line, ...]
    collectives: tuple[Line, ...]

    @property
    def same_collectives(self) -> bool:
        """Whether number and bytes of all of them agree."""
        return all(line.planned == line.simulated for line in self.collectives)


def compare(run: RunConfig, plan: ParallelPlan, cost: StepCost) -> Comparison:
    """The plan of a run beside what one rank of it took."""
    work = work_of(run, plan)
    planned, found = memory(work, "balanced").components(), cost.memory.components()
    made = ("dispatch", "activations")
    lines = [Line(name, planned[name], found[name]) for name in COMPONENTS]
    both = Line("dispatch + activations", *(sum(t[n] for n in made) for t in (planned, found)))
    calls, counted = Counter[str](), Counter[str]()
    for each in collectives(work, "balanced"):
        calls[_name(each.operation, each.group, each.size)] += each.count
    for call in cost.collectives:
        counted[_name(call.operation, call.group, call.size)] += call.count
    return Comparison(
        (*lines, both),
        tuple(Line(name, calls[name], counted[name]) for name in {**counted, **calls}),
    )


def _name(operation: str, group: int, size: int) -> str:
    return f"{operation} of {size:,} bytes over {group} ranks"
