"""How weights and rows are laid over ranks. Nothing here imports torch.

``data * expert * tensor`` ranks. With d, e, t the places along the axes, the rank is
``(d * expert + e) * tensor + t``: tensor ranks are neighbours, then those that share experts.

Rows of the batch are dealt over the ``data * expert`` *batch ranks*; the ranks of one tensor axis
compute the same rows. Dense weights are sharded over ``fsdp`` neighbouring batch ranks and copied
beyond; those of the experts are dealt over ``expert``, and each rank's share is sharded again over
``expert_fsdp`` ranks of the data axis.
"""

from dataclasses import dataclass, replace
from typing import Literal

from turnout.config.errors import check_words, require

Wire = Literal["compute", "bfloat16"]


@dataclass(frozen=True)
class ParallelPlan:
    """Sizes of the axes; the default is one process.

    ``data`` replicas of all experts, each of ``expert * tensor`` ranks; None: as many as the
    started ranks make. ``fsdp`` shards of each dense weight; 1 copies it to every batch rank, None
    shards it over all of them. ``expert`` ranks share out the experts of a layer. ``tensor`` ranks
    share out attention's heads and the hidden width of feed-forward networks and experts;
    ``sequence`` lets them share out the tokens between those as well. Tokens travel to experts in
    the ``wire`` dtype: that of the computation, or bfloat16.
    """

    data: int | None = None
    fsdp: int | None = None
    expert: int = 1
    tensor: int = 1
    sequence: bool = False
    wire: Wire = "compute"

    def __post_init__(self) -> None:
        check_words(self, "parallel")
        for name in ("data", "fsdp", "expert", "tensor"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"parallel.{name}", value, "at least 1")
        require(
            self.tensor > 1 or not self.sequence,
            "parallel.sequence",
            self.sequence,
            "false where parallel.tensor is 1",
            "the ranks of the tensor axis are those that share out the tokens",
        )
        if self.data is not None:
            self._check_fsdp(self.data)

    def over(self, ranks: int) -> "ParallelPlan":
        """The plan of ``ranks`` ranks, with ``data`` and ``fsdp`` as numbers.

        Raises:
            ConfigError: the axes do not make up ``ranks``; it names the valid sizes.
        """
        inner = self.expert * self.tensor
        name = "tensor" if ranks % self.tensor else "expert"
        left = ranks if name == "tensor" else ranks // self.tensor
        require(
            left % getattr(self, name) == 0,
            f"parallel.{name}",
            getattr(self, name),
            f"one of {', '.join(map(str, divisors(left)))} with {_counted(ranks)}"
            + (f" and parallel.tensor = {self.tensor}" if left < ranks else ""),
            f"or start {inner} of them: torchrun --nproc-per-node {inner} -m turnout ..",
        )
        found = ranks // inner
        require(
            self.data in (None, found),
            "parallel.data",
            self.data,
            f"{found} with {_counted(ranks)}, parallel.expert = {self.expert} and "
            f"parallel.tensor = {self.tensor}",
            f"leave it out, or start {(self.data or found) * inner} ranks",
        )
        fsdp = found * self.expert if self.fsdp is None else self.fsdp
        return replace(self, data=found, fsdp=fsdp)

    @property
    def ranks(self) -> int:
        """All of them; of a plan whose ``data`` is a number."""
        return self.batch_ranks * self.tensor

    @property
    def batch_ranks(self) -> int:
        """Ranks that read rows of their own, a tensor axis counted as one."""
        return self._data * self.expert

    @property
    def dense_shards(self) -> int:
        """Batch ranks over which each dense weight is sharded."""
        return self.batch_ranks if self.fsdp is None else self.fsdp

    @property
    def dense_replicas(self) -> int:
        """Copies of each shard of a dense weight."""
        return self.batch_ranks // self.dense_shards

    @property
    def expert_fsdp(self) -> int:
        """Ranks of the data axis over which a rank's share of the experts is sharded again."""
        return max(1, self.dense_shards // self.expert)

    @property
    def expert_replicas(self) -> int:
        """Copies of each shard of an expert weight."""
        return self._data // self.expert_fsdp

    @property
    def single(self) -> bool:
        """Whether this is one process."""
        return self.ranks == 1

    @property
    def _data(self) -> int:
        assert self.data is not None, "of a plan that over() has returned"
        return self.data

    def _check_fsdp(self, data: int) -> None:
        """Shards fill whole rows of the mesh: those of the experts must be ranks of its own."""
        if self.fsdp is None:
            return
        ranks, valid = data * self.expert, fsdp_sizes(data, self.expert)
        require(
            self.fsdp in valid,
            "parallel.fsdp",
            self.fsdp,
            f"one of {', '.join(map(str, valid))} with {ranks} batch ranks and parallel.expert = "
            f"{self.expert}",
        )


def fsdp_sizes(data: int, expert: int) -> list[int]:
    """Numbers of shards of a dense weight that fill whole rows of the mesh, ascending."""
    return [n for n in divisors(data * expert) if n % expert == 0 or expert % n == 0]


def divisors(value: int) -> list[int]:
    """All divisors of a positive number, ascending."""
    small = [n for n in range(1, int(value**0.5) + 1) if value % n == 0]
    return sorted({*small, *(value // n for n in small)})


def _counted(ranks: int) -> str:
    return "1 rank" if ranks == 1 else f"{ranks} ranks"
