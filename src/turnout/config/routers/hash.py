"""Hash layers (Roller et al. 2021, 2106.04426): a fixed table says which expert serves an id."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from turnout.config.errors import check_words, require
from turnout.config.routers.base import RouterSpec, at_least

HashTable = Literal["random", "balanced", "bigram", "clustered", "dispersed"]

BUCKETS = 1 << 16


@dataclass(frozen=True)
class HashRouter(RouterSpec):
    """One expert a token, by its vocabulary id alone; weight 1 and nothing to learn.

    ``random`` draws the table from ``seed``, another for each layer. ``balanced`` evens the loads
    by the frequencies of the ids in the training text. ``bigram`` looks up a hash of the id and
    the one before it among ``buckets`` (None: 65,536), balanced in the same way. ``clustered``
    gives an expert the ids of one k-means cluster of the token embeddings, ``dispersed`` spreads
    each cluster over all experts.
    """

    kind: ClassVar[str] = "hash"
    table: HashTable = "random"
    seed: int = 0
    buckets: int | None = None

    def __post_init__(self) -> None:
        check_words(self, "router")
        require(0 <= self.seed < 2**63, "router.seed", self.seed, "in 0 .. 2^63 - 1")
        require(
            self.buckets is None or self.table == "bigram",
            "router.buckets",
            self.buckets,
            "none unless router.table is 'bigram'",
            "the other tables have an entry for each id of the vocabulary",
        )
        require(
            self.buckets is None or self.buckets >= 1, "router.buckets", self.buckets, "at least 1"
        )

    def entries(self, vocab_size: int) -> int:
        """Entries of the table."""
        if self.table != "bigram":
            return vocab_size
        return BUCKETS if self.buckets is None else self.buckets

    @property
    def active(self) -> int:
        return 1

    def candidates(self, num_experts: int) -> int:
        return 1

    def check(self, num_experts: int) -> None:
        at_least(1, num_experts, self.kind)

    def num_params(self, d_model: int, num_experts: int) -> int:
        return 0
