"""A run's processes over torch's process groups, for the trainer."""

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.utils import _pytree

from turnout.checkpoint import ranks as checkpoint
from turnout.checkpoint.blocks import Block
from turnout.checkpoint.format import Part
from turnout.data.batch import Batch
from turnout.models.base import Model
from turnout.moe.losses import LossSums
from turnout.moe.stats import LayerStats
from turnout.parallel.apply import apply
from turnout.parallel.collectives import exchange_counts
from turnout.parallel.exchange import CountExchange
from turnout.parallel.mesh import Meshes
from turnout.parallel.rows import own_rows
from turnout.parallel.shards import Layout, local, squared_norm
from turnout.train.ranks import Ranks, Turn, Whole
from turnout.train.stopping import StopRequest


@final
class ManyRanks(Ranks):
    """Ranks of the default process group, laid out by a plan; for one model.

    Attributes:
        layout: what this rank holds of it, once it is laid out.

    Args:
        group_rows: rows of a routing group, which stay on one rank.
        messages: how they speak of what is rare.
        leave: is called when this rank leaves the others.
        counts: how they learn how many rows come; a simulation puts its own in its place.
        request: where what asks this process to stop is noted, for others to look at.
    """

    def __init__(
        self,
        meshes: Meshes,
        group_rows: int,
        messages: checkpoint.Ranks,
        leave: Callable[[], None] = lambda: None,
        counts: CountExchange = exchange_counts,
        request: StopRequest | None = None,
    ) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        self.batch_rank = meshes.batch_rank
        self.messages = messages
        self.request = StopRequest() if request is None else request
        self._leave = leave
        self._meshes = meshes
        self._group_rows = group_rows
        self._exchange = counts
        # Ranks of one tensor axis read the same rows: the first of them counts.
        self._counts = self.rank % meshes.plan.tensor == 0
        self.layout = Layout({})
        self._weights: dict[str, nn.Parameter] = {}

    def lay_out(self, model: Model) -> None:
        self.layout = apply(model, self._meshes, self._exchange)
        self.hold(model)

    def hold(self, model: Model) -> None:
        """Take up the weights of a model that is laid out, where its memory is now."""
        units = [module for module in model.modules() if isinstance(module, FSDPModule)]
        for unit in units:
            # The first gathering may move the memory of a shard: afterwards it stays.
            unit.unshard()
            unit.reshard()
        self._weights = {name: _leaf(param) for name, param in model.named_parameters()}

    def weights(self, model: Model) -> dict[str, nn.Parameter]:
        return self._weights

    def refresh(self, model: Model) -> None:
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def share(self, batches: list[Batch]) -> list[Batch]:
        plan = self._meshes.plan
        multiple = plan.tensor if plan.sequence else 1
        return [
            own_rows(
                batch,
                self.batch_rank,
                plan.batch_ranks,
                group=self._group_rows,
                multiple=multiple,
            )
            for batch in batches
        ]

    def turn(self, work: Callable[[], list[float]], count: int, signal: int) -> Turn:
        numbers, problem = [0.0] * count, None
        try:
            numbers = work()
        except Exception as error:  # whatever it is: the others must not wait
            problem = error
        signals, failed = ([0.0] * self.size for _ in range(2))
        signals[self.rank], failed[self.rank] = float(signal), float(problem is not None)
        own = numbers if self._counts else [0.0] * count
        total = self._sum(torch.tensor([*own, *signals, *failed], dtype=torch.float64)).tolist()
        numbers, signals = total[:count], total[count : count + self.size]
        if any(total[count + self.size :]):
            self.messages.consult(lambda: _raise(problem), lambda texts: texts)
        came = [rank for rank, number in enumerate(signals) if number]
        return Turn(numbers, int(signals[came[0]]), came[0]) if came else Turn(numbers)

    def add(self, numbers: Sequence[float]) -> list[float]:
        found: list[float] = self._added(torch.tensor(numbers, dtype=torch.float64)).tolist()
        return found

    def add_layers(
        self, parts: Sequence[tuple[LayerStats, ...]]
    ) -> Sequence[tuple[LayerStats, ...]]:
        layers = tuple(_one_row(layer) for layer in zip(*parts, strict=True))
        return [self._added_tree(layers)] if layers else parts

    def whole_sums(self, sums: LossSums) -> LossSums:
        whole: LossSums = self._added_tree(sums)
        return whole

    def settle(self, model: Model) -> None:
        partial = []
        for name, param in model.named_parameters():
            shard, leaf = self.layout.shards[name], self._weights[name]
            if leaf is not param and param.grad is not None:
                leaf.grad, param.grad = local(param.grad), None
            if shard.partial is not None and leaf.grad is not None:
                partial.append(leaf.grad)
        if partial:
            flat = torch.cat([grad.flatten() for grad in partial])
            dist.all_reduce(flat, group=self._meshes.dense.get_group("tensor"))
            for grad, total in zip(partial, _split(flat, partial), strict=True):
                grad.copy_(total.view_as(grad))

    def norm(self, model: Model) -> Tensor:
        found = [
            (leaf.grad, self.layout.shards[name])
            for name, leaf in self._weights.items()
            if leaf.grad is not None
        ]
        return self._sum(squared_norm(found)).sqrt().float()

    def whole(self, name: str) -> Whole | None:
        shard = self.layout.shards[name]
        return shard if shard.cuts else None

    def part(self, name: str, tensor: Tensor, without: int | None = None) -> Part | None:
        shard = self.layout.shards.get(name)
        if shard is None:  # a buffer, which every rank has
            return Part.whole(tensor)
        if not shard.owned:
            return None
        shard = shard if without is None else shard.without(without)
        return Part(shard.shape, shard.block[0], local(tensor))

    def block(self, name: str, shape: tuple[int, ...], without: int | None = None) -> Block | None:
        shard = self.layout.shards.get(name)
        if shard is None:
            return Block.whole(shape)
        shard = shard if without is None else shard.without(without)
        return Block(*shard.block) if shard.owned else None

    def close(self) -> None:
        dist.barrier()
        self._leave()
        dist.destroy_process_group()

    def _added(self, values: Tensor) -> Tensor:
        return self._sum(values if self._counts else torch.zeros_like(values))

    def _sum(self, values: Tensor) -> Tensor:
        dist.all_reduce(values)
        return values

    def _added_tree(self, tree: Any) -> Any:
        """Every tensor of a tree added over the ranks, in one go; each keeps its dtype."""
        leaves, spec = _pytree.tree_flatten(tree)
        flat = torch.cat([leaf.detach().double().flatten() for leaf in leaves])
        parts = _split(self._added(flat), leaves)
        return _pytree.tree_unflatten(
            [
                part.view(leaf.shape).to(leaf.dtype)
                for part, leaf in zip(parts, leaves, strict=True)
            ],
            spec,
        )


def _split(flat: Tensor, like: Sequence[Tensor]) -> Sequence[Tensor]:
    """The parts of what was joined from tensors of the sizes of ``like``."""
    return torch.split(flat, [tensor.numel() for tensor in like])


def _leaf(param: nn.Parameter) -> nn.Parameter:
    held = local(param)
    if held is param:
        return param
    return nn.Parameter(held.detach(), requires_grad=param.requires_grad)


def _one_row(parts: tuple[LayerStats, ...]) -> LayerStats:
    """Micro-batches and groups of a layer in one row; float sums in float64."""

    def added(*values: Tensor) -> Tensor:
        rows = [value.detach().sum(0, keepdim=True) for value in values]
        total = torch.stack([row.double() if row.is_floating_point() else row for row in rows])
        return total.sum(0)

    row: LayerStats = _pytree.tree_map(added, *parts)
    return row


def _raise(problem: Exception | None) -> str:
    if problem is not None:
        raise problem
    return ""
