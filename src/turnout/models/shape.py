"""One stack of a model, as the parts that build it need to know it."""

from dataclasses import dataclass

from turnout.config.attention import Attention
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.moe import MoEConfig
from turnout.config.norms import NormName
from turnout.config.positions import Positions


@dataclass(frozen=True)
class StackShape:
    """A stack of blocks; ``first_index`` numbers its blocks uniquely within the model.

    ``length`` is the configured tokens of a row, from which expert capacity follows. A decoder
    is causal; with ``cross`` it also reads an encoder's states. ``residual`` multiplies what each
    sub-layer adds, ``attention_scale`` the logits of attention where it is not by head_dim.
    """

    name: str
    num_layers: int
    first_index: int
    d_model: int
    attention: Attention
    feed_forward: FeedForwardConfig
    moe: MoEConfig | None
    positions: Positions
    length: int
    dropout: float
    epsilon: float
    causal: bool
    cross: bool
    recompute: bool
    vocab_size: int
    residual: float = 1.0
    attention_scale: float | None = None
    norm: NormName = "rms"

    @property
    def sparse(self) -> frozenset[int]:
        """Indices of the sparse layers."""
        if self.moe is None:
            return frozenset()
        return frozenset(self.moe.placement.sparse_layers(self.num_layers))

    @property
    def padding_reads(self) -> bool:
        """Whether padding is routed too, and so must read the tokens of its row."""
        return self.moe is not None and self.moe.eval_slots is not None

    def moe_of(self, layer: int) -> MoEConfig | None:
        """The experts of one layer; None where it is dense."""
        if self.moe is None or layer not in self.sparse:
            return None
        return self.moe.of_layers(len(self.sparse))[sorted(self.sparse).index(layer)]
