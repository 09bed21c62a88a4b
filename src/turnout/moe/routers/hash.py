"""Hash layers (Roller et al. 2021, 2106.04426). Axes: B batch, S sequence, D width, T tokens, V
entries of the table, E experts.
"""

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from turnout.config.errors import ConfigError, UserError
from turnout.config.routers import HashRouter
from turnout.moe import hash_tables
from turnout.moe.assignment import Assignment
from turnout.moe.context import RoutingContext
from turnout.moe.routers.base import Router, RouterShape, build_router
from turnout.moe.routers.fixed import certain, fixed_routing
from turnout.moe.stats import RouterStats


@final
class TableRouter(Router):
    """``expert = table[id]``, weight 1; the table is an int64 buffer of every checkpoint.

    The paper's single-hash layer with input ids. A router starts from the random table; tables
    that need frequencies or embeddings are made by ``turnout.moe.hash_tables`` and set here, as
    training does when a run begins. Without logits there is nothing for an auxiliary loss to
    move.
    """

    table: Int[Tensor, " V"]

    def __init__(self, config: HashRouter, shape: RouterShape, vocab_size: int) -> None:
        super().__init__()
        self.layer = shape.layer
        self.seed = config.seed
        self.bigram = config.table == "bigram"
        self.num_experts = shape.num_experts
        entries = config.entries(vocab_size)
        self.register_buffer("table", torch.empty(entries, dtype=torch.int64))

    def init_weights(
        self, generator: torch.Generator | None = None, *, std: float | None = None
    ) -> None:
        """The random table of the configured seed."""
        table = hash_tables.random(len(self.table), self.num_experts, self.seed, self.layer)
        self.table.copy_(table)

    def set_table(self, table: Int[Tensor, " _"]) -> None:
        """Takes another table.

        Raises:
            UserError: it is one for another vocabulary, or names experts that are not there.
        """
        if len(table) != len(self.table):
            entries = "buckets of pairs of ids" if self.bigram else "ids of its vocabulary"
            raise UserError(
                f"a hash table of {len(table):,} entries is of another vocabulary: the router "
                f"has {len(self.table):,} {entries}"
            )
        low, high = int(table.min()), int(table.max())
        if low < 0 or high >= self.num_experts:
            raise UserError(
                f"a hash table names expert {low if low < 0 else high}: the layer has experts 0 "
                f"to {self.num_experts - 1}"
            )
        self.table.copy_(table)

    def forward(
        self, x: Float[Tensor, "B S D"], context: RoutingContext
    ) -> tuple[Assignment, RouterStats]:
        entry = torch.where(context.mask, self._entries(context), 0).flatten()
        expert = self.table.index_select(0, entry).unsqueeze(1)
        return fixed_routing(expert, certain(expert, self.num_experts), context)

    def _entries(self, context: RoutingContext) -> Int[Tensor, "B S"]:
        ids, previous = context.token_ids, context.previous_ids
        if ids is None:
            raise UserError(_missing("token_ids"))
        if not self.bigram:
            return ids
        if previous is None:
            raise UserError(_missing("previous_ids"))
        return hash_tables.bucket(ids, previous, len(self.table), self.seed)


def _missing(field: str) -> str:
    return (
        f"moe.router.kind = 'hash': reads {field}, which the routing context lacks; give "
        f"RoutingContext.build(mask, {field}=..), as the models do"
    )


@build_router.register
def _(config: HashRouter, shape: RouterShape) -> Router:
    if shape.vocab_size is None:
        raise ConfigError(
            "vocab_size", None, "given for a router of kind 'hash'", "its table has an entry an id"
        )
    return TableRouter(config, shape, shape.vocab_size)
