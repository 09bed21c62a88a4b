"""The processes of a run, seen from one of them: what the trainer asks of the others.

One process is the case that asks nobody. The trainer itself knows no group and no mesh.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from turnout.checkpoint import ranks as checkpoint
from turnout.checkpoint.blocks import Block
from turnout.checkpoint.format import Part
from turnout.config.errors import UserError
from turnout.data.batch import Batch
from turnout.models.base import Model
from turnout.moe.losses import LossSums
from turnout.moe.stats import LayerStats
from turnout.train.stopping import StopRequest

Weights = Mapping[str, nn.Parameter]


@runtime_checkable
class Whole(Protocol):
    """A weight of which a rank may hold a block."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole weight."""

    def mean(self, values: Tensor, dim: int) -> Tensor:
        """The mean of the whole weight's values along a dimension, which stays with size 1; from
        those at this rank's block."""


@dataclass(frozen=True)
class Held:
    """Parameters by name, as a module gives them."""

    weights: Weights

    def named_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """In order."""
        return self.weights.items()


@dataclass(frozen=True)
class Turn:
    """What all ranks know at the beginning of a step.

    Attributes:
        numbers: the sums of theirs.
        signal: the number of a signal that asks to stop, or 0.
        rank: the first one that it came to.
    """

    numbers: list[float]
    signal: int = 0
    rank: int = 0


class Ranks(ABC):
    """All ranks call each method in the same order, whatever their tokens are routed to.

    Attributes:
        rank: this process's number.
        size: how many there are.
        batch_rank: which share of the rows this one reads.
        messages: for what is rare: saving, failing, saying why.
        request: what asked this process to stop; noted while it trains.
    """

    rank: int
    size: int
    batch_rank: int
    messages: checkpoint.Ranks
    request: StopRequest

    @abstractmethod
    def lay_out(self, model: Model) -> None:
        """Leave this rank its share of a model that all ranks have whole."""

    @abstractmethod
    def weights(self, model: Model) -> dict[str, nn.Parameter]:
        """What this rank holds of the parameters, by name; optimisers and averages are over it.

        Changed in place it changes the model, at the latest after ``refresh``.
        """

    @abstractmethod
    def refresh(self, model: Model) -> None:
        """Have the next pass read weights that were changed between passes."""

    @abstractmethod
    def share(self, batches: list[Batch]) -> list[Batch]:
        """This rank's rows of each batch: whole routing groups, as many as any other has."""

    @abstractmethod
    def turn(self, work: Callable[[], list[float]], count: int, signal: int) -> Turn:
        """Do this rank's part of a step's preparation, and agree to take the step.

        Args:
            work: gives ``count`` numbers, which are added over the ranks that read rows.
            signal: the number of a signal that came to this rank, or 0.

        Raises:
            CheckpointError: the work of a rank failed: one line that names it, on all ranks. One
                process raises what was raised.
        """

    @abstractmethod
    def add(self, numbers: Sequence[float]) -> list[float]:
        """Sums over the ranks that read rows, in float64."""

    @abstractmethod
    def add_layers(
        self, parts: Sequence[tuple[LayerStats, ...]]
    ) -> Sequence[tuple[LayerStats, ...]]:
        """Statistics of the layers' micro-batches, with those of all ranks added."""

    @abstractmethod
    def whole_sums(self, sums: LossSums) -> LossSums:
        """One row of sums, with those of all ranks added; without gradient."""

    @abstractmethod
    def settle(self, model: Model) -> None:
        """After the backward passes of a step: the gradients of ``weights`` are complete."""

    @abstractmethod
    def norm(self, model: Model) -> Tensor:
        """The norm of all gradients together, each entry of a weight counted once."""

    @abstractmethod
    def whole(self, name: str) -> Whole | None:
        """What a parameter is the block of; None where it is whole."""

    @abstractmethod
    def part(self, name: str, tensor: Tensor, without: int | None = None) -> Part | None:
        """Where this rank's block of a weight lies in the whole; None where it holds none.

        Args:
            tensor: the block, or one of its shape but for the dimension ``without``.
        """

    @abstractmethod
    def block(self, name: str, shape: tuple[int, ...], without: int | None = None) -> Block | None:
        """Which block of a tensor of that whole shape ``part`` says that this rank holds."""

    @abstractmethod
    def close(self) -> None:
        """Leave the others, who do so too; nothing else is called after it."""

    def blame(self, text: str) -> str:
        """What each rank that has something to say says, with its number."""

        def judge(texts: list[str]) -> list[str]:
            said = [f"rank {rank}: {one}" for rank, one in enumerate(texts) if one]
            more = f"; and {len(said) - 2} more ranks" if len(said) > 2 else ""
            return ["; ".join(said[:2]) + more] * len(texts)

        return text if self.size == 1 else self.messages.consult(lambda: text, judge)


def first(ranks: Ranks, work: Callable[[], object]) -> None:
    """Have the first rank do something that all wait for.

    Raises:
        CheckpointError: it failed, on all ranks; one process raises what was raised.
    """

    def judge(texts: list[str]) -> list[str]:
        work()
        return texts

    ranks.messages.consult(lambda: "", judge)


def told(ranks: Ranks, work: Callable[[], str]) -> str:
    """What ``work`` says on the first rank, which alone does it."""

    def judge(texts: list[str]) -> list[str]:
        return [work()] * len(texts)

    return ranks.messages.consult(lambda: "", judge)


def same(messages: checkpoint.Ranks, facts: Mapping[str, str]) -> None:
    """Refuse ranks that would train on something else than the first one, or otherwise.

    Args:
        facts: what each found for itself, by the name of what would settle it.

    Raises:
        CheckpointError: names the rank, and what differs; on all ranks.
    """

    def judge(texts: list[str]) -> list[str]:
        first, *others = map(json.loads, texts)
        for rank, found in enumerate(others, start=1):
            for name, value in found.items():
                if value != first[name]:
                    raise UserError(
                        f"{name}: {value} on rank {rank}, but {first[name]} on rank 0; must be "
                        "the same on all machines: set it, or start the same versions on all"
                    )
        return texts

    messages.consult(lambda: json.dumps(facts), judge)


@final
class Alone(Ranks):
    """One process."""

    rank = 0
    size = 1
    batch_rank = 0

    def __init__(self) -> None:
        self.messages = checkpoint.Alone()
        self.request = StopRequest()

    def close(self) -> None:
        """Nothing: there is nobody to leave."""

    def lay_out(self, model: Model) -> None:
        """Nothing: the model stays as it is."""

    def weights(self, model: Model) -> dict[str, nn.Parameter]:
        return dict(model.named_parameters())

    def refresh(self, model: Model) -> None:
        """Nothing: passes read the weights themselves."""

    def share(self, batches: list[Batch]) -> list[Batch]:
        return batches

    def turn(self, work: Callable[[], list[float]], count: int, signal: int) -> Turn:
        return Turn([0.0] * count if signal else work(), signal)

    def add(self, numbers: Sequence[float]) -> list[float]:
        return list(numbers)

    def add_layers(
        self, parts: Sequence[tuple[LayerStats, ...]]
    ) -> Sequence[tuple[LayerStats, ...]]:
        return parts

    def whole_sums(self, sums: LossSums) -> LossSums:
        return sums

    def settle(self, model: Model) -> None:
        """Nothing: the backward pass left nothing to do."""

    def norm(self, model: Model) -> Tensor:
        return get_total_norm([p.grad for p in model.parameters() if p.grad is not None])

    def whole(self, name: str) -> Whole | None:
        return None

    def part(self, name: str, tensor: Tensor, without: int | None = None) -> Part | None:
        return Part.whole(tensor)

    def block(self, name: str, shape: tuple[int, ...], without: int | None = None) -> Block | None:
        return Block.whole(shape)
