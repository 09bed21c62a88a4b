"""What generation remembers: keys and values of every layer, for both model families.

Axes: B batch, M slots of a row, E encoder positions, KV key-value heads, d width of a head.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from turnout.config.attention import Attention
from turnout.config.errors import UserError
from turnout.nn import one_query
from turnout.nn.attention import KeyValues, Slots

HALF = (torch.bfloat16, torch.float16)


def kept(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """What keys and values of this dtype are kept in.

    On CPUs PyTorch's attention of one query to many keys takes eight times as long in half
    precision as in float32 (docs/results/generation.md), whose room they are given; but where the
    kernels in C++ are taken.
    """
    slow = device.type == "cpu" and dtype in HALF and not one_query.computes(dtype, device)
    return torch.float32 if slow else dtype


@dataclass(frozen=True)
class Memory:
    """What the decoder reads of the encoder, computed once: one KeyValues a decoder layer."""

    layers: tuple[KeyValues, ...]
    mask: Bool[Tensor, "B E"]


@dataclass(frozen=True)
class Cache:
    """Room for ``max_length`` decoder tokens a row; the first ``used`` are written.

    A forward pass writes into the room in place and returns the value that says so: the cache
    that was given is used up. Rows may be padded on the left; ``mask`` remembers where. ``ids``
    are the tokens themselves, which some routers look back at.
    """

    layers: tuple[KeyValues, ...]
    mask: Bool[Tensor, "B M"]
    ids: Int[Tensor, "B M"]
    used: int = 0
    memory: Memory | None = None

    @staticmethod
    def empty(
        config: Attention,
        num_layers: int,
        *,
        batch: int,
        max_length: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> "Cache":
        """A cache with nothing in it, of what is computed in ``dtype``."""
        dtype = kept(dtype, device)
        (key_heads, key_width), (value_heads, value_width) = config.cached
        keys = (batch, key_heads, max_length, key_width)
        values = (batch, value_heads, max_length, value_width)
        return Cache(
            layers=tuple(
                KeyValues(
                    torch.zeros(keys, dtype=dtype, device=device),
                    torch.zeros(values, dtype=dtype, device=device),
                )
                for _ in range(num_layers)
            ),
            mask=torch.zeros((batch, max_length), dtype=torch.bool, device=device),
            ids=torch.zeros((batch, max_length), dtype=torch.int64, device=device),
        )

    @property
    def dtype(self) -> torch.dtype:
        """Of keys and values."""
        return self.layers[0].keys.dtype

    @property
    def max_length(self) -> int:
        return self.mask.shape[1]

    def slots(self, layer: int, new: int) -> Slots:
        """The room of one layer, to be written from the last ``new`` tokens counted in."""
        room = self.layers[layer]
        return Slots(room.keys, room.values, self.used - new)

    def previous_ids(self, new: int) -> Int[Tensor, "B S"]:
        """The id before each of the last ``new`` tokens, -1 where there is none."""
        start = self.used - new
        ids = torch.where(self.mask, self.ids, -1)[:, max(start - 1, 0) : self.used - 1]
        return F.pad(ids, (new - ids.shape[1], 0), value=-1)

    def positions(self, new: int) -> Int[Tensor, "B S"]:
        """The index of each of the last ``new`` tokens among the real tokens of its row."""
        before = self.mask[:, : self.used].cumsum(1) - 1
        return before.clamp(min=0)[:, self.used - new :]

    def rows(self, index: Int[Tensor, " N"]) -> "Cache":
        """A cache of its own with these rows of this one, in this order; rows may repeat.

        Its N rows have the room of this one; what is behind the written tokens is not copied.
        """
        memory = self.memory
        if memory is not None:
            layers = tuple(_rows(layer, index) for layer in memory.layers)
            memory = Memory(layers, memory.mask.index_select(0, index))
        return replace(
            self,
            layers=tuple(_written_rows(layer, index, self.used) for layer in self.layers),
            mask=self.mask.index_select(0, index),
            ids=self.ids.index_select(0, index),
            memory=memory,
        )

    def reordered(self, index: Int[Tensor, " B"]) -> "Cache":
        """The cache with its rows replaced by ``index``, in place: this one is used up.

        What is remembered of an encoder stays where it is: a row may be replaced by one that
        answers the same prompt alone.
        """
        written = slice(0, self.used)
        for layer in self.layers:
            for room in (layer.keys, layer.values):
                room[:, :, written] = room[:, :, written].index_select(0, index)
        self.mask[:, written] = self.mask[:, written].index_select(0, index)
        self.ids[:, written] = self.ids[:, written].index_select(0, index)
        return self

    def advanced(self, ids: Int[Tensor, "B S"], mask: Bool[Tensor, "B S"]) -> "Cache":
        """The cache with new tokens counted in; their ids and mask are written in place.

        Raises:
            UserError: gradients are on, or there is no room left.
        """
        if torch.is_grad_enabled():
            raise UserError("a KV cache keeps no gradient: call the model under torch.no_grad()")
        end = self.used + mask.shape[1]
        if end > self.max_length:
            raise UserError(
                f"cache: {end} tokens do not fit into max_length {self.max_length}: "
                "ask for a longer one with model.empty_cache"
            )
        self.mask[:, self.used : end] = mask
        self.ids[:, self.used : end] = ids
        return replace(self, used=end)


def _rows(layer: KeyValues, index: Int[Tensor, " N"]) -> KeyValues:
    return KeyValues(layer.keys.index_select(0, index), layer.values.index_select(0, index))


def _written_rows(layer: KeyValues, index: Int[Tensor, " N"], used: int) -> KeyValues:
    def picked(room: Tensor) -> Tensor:
        own = room.new_zeros((index.shape[0], *room.shape[1:]))
        own[:, :, :used] = room[:, :, :used].index_select(0, index)
        return own

    return KeyValues(picked(layer.keys), picked(layer.values))
