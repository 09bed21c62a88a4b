"""The tables of hash routers that are made from the training text or the embeddings.

Made when a run begins; every checkpoint holds them, so a resumed run looks at nothing. Axes: V
entries, B rows, S positions.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import singledispatch
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from turnout.config.routers import HashRouter
from turnout.data.batch import Stream
from turnout.data.pipeline import Data
from turnout.models.base import Model
from turnout.models.contexts import previous_ids
from turnout.moe import hash_tables
from turnout.moe.routers.hash import TableRouter

POSITIONS = 1 << 21
_ROWS = 256


@dataclass(frozen=True)
class Material:
    """What tables can be made from.

    Attributes:
        data: the run's text.
        stack: ``encoder`` or ``decoder``, whose ids are counted.
        num_experts: of a layer.
        embeddings: of the tokens, as they are now.
    """

    data: Data
    stack: str
    num_experts: int
    embeddings: Float[Tensor, "V D"]


def fill_hash_tables(model: Model, data: Data) -> None:
    """Sets the tables of all hash routers but the random ones, which have theirs already.

    Frequencies are those of the ids that the stack itself reads: in up to 2^21 positions of the
    first epoch's rows, which are drawn from all of the training text at the mixture's rates.
    ``clustered`` and ``dispersed`` take the embeddings that the model begins with. Those are
    random where training does; ``router.set_table`` takes a table made of trained ones.
    """
    for stack in model.stacks():
        moe = stack.shape.moe
        if moe is None:
            continue
        embeddings = model.embedding.weight.detach()
        layers = stack.sparse_layers().values()
        for experts in sorted({layer.experts.num_experts for layer in layers}):
            table = made_table(moe.router, Material(data, stack.shape.name, experts, embeddings))
            for layer in layers:
                if table is not None and layer.experts.num_experts == experts:
                    cast(TableRouter, layer.router).set_table(table)


@singledispatch
def made_table(router: object, material: Material) -> Int[Tensor, " V"] | None:
    """The table of a router that reads one made from ``material``; None for all others."""
    return None


@made_table.register
def _(router: HashRouter, material: Material) -> Int[Tensor, " V"] | None:
    experts = material.num_experts
    if router.table == "random":
        return None
    if router.table in ("balanced", "bigram"):
        return hash_tables.balanced(frequencies(router, material), experts)
    clusters = hash_tables.clustered(material.embeddings, experts, router.seed)
    if router.table == "clustered":
        return clusters
    return hash_tables.dispersed(clusters, experts)


def frequencies(router: HashRouter, material: Material) -> Int[Tensor, " V"]:
    """How often the stack reads each entry of the router's table."""
    entries = router.entries(len(material.embeddings))
    counts = torch.zeros(entries, dtype=torch.int64)
    for stream in _streams(material):
        found = stream.ids
        if router.table == "bigram":
            found = hash_tables.bucket(found, previous_ids(stream), entries, router.seed)
        counts += torch.bincount(found[stream.mask], minlength=entries)
    return counts


def _streams(material: Material) -> Iterator[Stream]:
    """The stack's own streams of the first epoch, up to ``POSITIONS`` of them."""
    rows, seen = material.data.train_rows, 0
    for first in range(0, rows.num_rows, _ROWS):
        if seen >= POSITIONS:
            return
        examples = rows.read(np.arange(first, min(first + _ROWS, rows.num_rows)))
        decoder = material.stack == "decoder" or examples.encoder is None
        stream = examples.decoder if decoder else cast(Stream, examples.encoder)
        seen += stream.ids.numel()
        yield stream
