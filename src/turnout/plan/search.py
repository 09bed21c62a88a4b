"""All layouts of a run over a number of devices, ranked; and what would help where none fits."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product
from typing import NoReturn

from turnout.config.errors import ConfigError, UserError
from turnout.config.layout import check_model, over_ranks
from turnout.config.parallel import ParallelPlan, divisors, fsdp_sizes
from turnout.config.train import RunConfig
from turnout.plan.cost import Time, step_time
from turnout.plan.hardware import Assumptions, Device
from turnout.plan.memory import Memory, memory, optimiser_bytes
from turnout.plan.weights import sharding
from turnout.plan.work import Anatomy, Load, Work, work_of

MAX_RANKS = 1 << 20


@dataclass(frozen=True)
class Layout:
    """One way to lay a run over devices: its configuration says how, and in how many parts."""

    work: Work
    device: Device
    assumed: Assumptions
    optimiser: int

    @property
    def config(self) -> RunConfig:
        return self.work.config

    @property
    def plan(self) -> ParallelPlan:
        return self.work.plan

    @cached_property
    def expected(self) -> Memory:
        """Of the fullest rank where routers choose evenly at random."""
        return self.memory("expected")

    def memory(self, load: Load) -> Memory:
        """Bytes on one rank with this load of its experts."""
        return memory(self.work, load, self.optimiser)

    @cached_property
    def time(self) -> Time:
        return step_time(self.work, self.device, self.assumed, self.expected)

    @property
    def room(self) -> float:
        """Bytes of a device that a run may take."""
        return self.device.memory * (1 - self.assumed.reserve)

    @property
    def fits(self) -> bool:
        return self.expected.peak <= self.room

    @property
    def fits_always(self) -> bool:
        """Whether it fits even where all tokens go to one rank's experts."""
        return self.memory("worst").peak <= self.room


@dataclass(frozen=True)
class Question:
    """What is to be laid over what. ``fixed`` are dotted names that the user has decided, such as
    ``parallel.expert`` or ``train.micro_batches``: other values of them are not looked at."""

    config: RunConfig
    ranks: int
    device: Device
    assumed: Assumptions
    fixed: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not 1 <= self.ranks <= MAX_RANKS:
            raise ConfigError("devices", self.ranks, f"in 1 .. {MAX_RANKS:,}")
        trained = self.config.train.trained
        if self.config.lora is not None or trained != ("all",):
            allowed = "left out here: plans are of runs that train every weight"
            found = ("train.trained", list(trained))
            field, value = found if self.config.lora is None else ("lora", self.config.lora)
            raise ConfigError(field, value, allowed)


def layouts(question: Question) -> list[Layout]:
    """Every valid layout, those that fit first, each kind by the time of a step.

    Each has as few micro-batches as fit, without recomputation if that is faster.

    Raises:
        ConfigError: none is valid; it says what is wrong with the one of data alone.
    """
    anatomy = Anatomy.of(question.config.model)
    tried = [
        layout
        for plan in plans(question)
        if (layout := _settled(question, plan, anatomy)) is not None
    ]
    if not tried:
        _refuse(question)
    return sorted(tried, key=_rank)


def smallest(question: Question) -> Layout:
    """A layout that fits, or else the one that takes the least.

    Raises:
        ConfigError: none is valid.
    """
    anatomy = Anatomy.of(question.config.model)
    best: Layout | None = None
    for plan in plans(question):
        layout = _settled(question, plan, anatomy)
        if layout is not None and layout.fits:
            return layout
        if layout is not None and (best is None or _rank(layout) < _rank(best)):
            best = layout
    return _refuse(question) if best is None else best


def choose(question: Question) -> Layout:
    """The best layout.

    Raises:
        ConfigError: none is valid.
        UserError: none fits; it says what would help.
    """
    best = layouts(question)[0]
    if best.fits:
        return best
    needed, room = best.expected.peak / 1e9, best.room / 1e9
    raise UserError(
        f"no layout of {question.config.preset} fits on {question.ranks} x {question.device.name}: "
        f"the smallest takes {needed:.3g} GB of {room:.3g} GB a device; `turnout plan` says what "
        "would help"
    )


def plans(question: Question) -> Iterator[ParallelPlan]:
    """The arrangements whose axes make up the ranks and divide the model, whatever the rows."""
    ranks, wire = question.ranks, question.config.parallel.wire
    for tensor, expert in product(divisors(ranks), repeat=2):
        if ranks % (tensor * expert):
            continue
        plan = ParallelPlan(ranks // tensor // expert, None, expert, tensor, False, wire)
        if not (_wanted(question, plan, "tensor", "expert") and _divides(question.config, plan)):
            continue
        for shared in (False, True):
            if shared and tensor == 1:
                continue
            for shards in fsdp_sizes(plan.batch_ranks // expert, expert):
                full = replace(plan, fsdp=shards, sequence=shared)
                if _wanted(question, full, "data", "fsdp", "sequence"):
                    yield full


def _wanted(question: Question, plan: ParallelPlan, *names: str) -> bool:
    """Whether the user's own sizes are those of the plan."""
    given = question.config.parallel
    return all(
        getattr(given, name) in (None, getattr(plan, name))
        for name in names
        if f"parallel.{name}" in question.fixed
    )


def _divides(config: RunConfig, plan: ParallelPlan) -> bool:
    try:
        check_model(config.model, plan)
    except ConfigError:
        return False
    return True


def _settled(question: Question, plan: ParallelPlan, anatomy: Anatomy) -> Layout | None:
    """The plan with its micro-batches and recomputation; None if the rows cannot be dealt."""
    parts = _micro_batches(question, plan)
    if not parts:
        return None
    train = question.config.train
    shards = sharding(anatomy.units, plan)
    optimiser = optimiser_bytes(question.config, shards)

    def of(number: int, recompute: bool) -> Layout:
        changed = replace(train, micro_batches=number, recompute=recompute)
        config = replace(question.config, train=changed, parallel=plan)
        work = work_of(config, plan, anatomy, shards)
        return Layout(work, question.device, question.assumed, optimiser)

    fixed = "train.recompute" in question.fixed
    least = of(parts[-1], train.recompute if fixed else True)
    if not least.fits:
        return least
    again = (train.recompute,) if fixed else (False, True)
    tried = (_fewest(partial(of, recompute=each), parts) for each in again)
    return min((each for each in tried if each.fits), key=_rank)


def _fewest(of: Callable[[int], Layout], parts: list[int]) -> Layout:
    """As few micro-batches as fit, by bisection: more of them hold less. All, if none fits."""
    last = of(parts[-1])
    if not last.fits:
        return last
    low, high = 0, len(parts) - 1
    while low < high:
        middle = (low + high) // 2
        if of(parts[middle]).fits:
            high = middle
        else:
            low = middle + 1
    return of(parts[low])


def _micro_batches(question: Question, plan: ParallelPlan) -> list[int]:
    """Numbers that leave every batch rank whole routing groups, ascending."""
    config = question.config
    group = 1 if config.model.moe is None else config.model.moe.group.rows
    rows, rest = divmod(config.train.batch_rows, group * plan.batch_ranks)
    if rest:
        return []
    parts = divisors(rows)
    if "train.micro_batches" in question.fixed:
        return [config.train.micro_batches] if config.train.micro_batches in parts else []
    return parts


def _rank(layout: Layout) -> tuple[bool, float, int]:
    """Those that fit by time; the others by how much they take."""
    if layout.fits:
        return False, layout.time.step, layout.expected.peak
    return True, float(layout.expected.peak), 0


def _refuse(question: Question) -> NoReturn:
    """Raises what is wrong with the configuration's own plan over these ranks."""
    config = question.config
    over_ranks(config, question.ranks)
    raise UserError(
        f"no layout over {question.ranks} devices has {', '.join(sorted(question.fixed))} as given"
    )
