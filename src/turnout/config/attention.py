"""Multi-head and grouped-query attention, and the union with latent attention."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from turnout.config.errors import check_words, require
from turnout.config.latent_attention import LatentAttention


@dataclass(frozen=True)
class AttentionConfig:
    """Multi-head or grouped-query attention.

    ``scaled`` divides the logits by sqrt(head_dim); T5 folds that into the query's
    initialisation instead. ``qk_norm``: RMSNorm on queries and keys, ``head`` over each head
    (Qwen3), ``full`` over the whole projection (OLMoE). ``bias``: of the projections to queries,
    keys and values (``qkv``: Qwen2-MoE), or of the output's as well (``all``: gpt-oss).

    ``window``: a token reads itself and the ``window - 1`` before it (Mistral 7B, 2310.06825), in
    the layers where ``window_pattern``, repeated from the first on, is true: gpt-oss's is
    ``(True, False)``, with every other layer reading all that came before. ``sinks``: a learned
    logit a head takes part in the softmax and adds nothing to its sum, so that a head can attend to
    nothing (gpt-oss; 2309.17453, section 3.3).
    """

    kind: ClassVar[str] = "grouped_query"
    assumed: ClassVar[bool] = True  # where a table of a model's attention names no kind
    num_heads: int
    head_dim: int
    num_kv_heads: int | None = None
    scaled: bool = True
    qk_norm: Literal["none", "head", "full"] = "none"
    bias: Literal["none", "qkv", "all"] = "none"
    window: int | None = None
    window_pattern: tuple[bool, ...] = (True,)
    sinks: bool = False

    def __post_init__(self) -> None:
        check_words(self, "attention")
        require(self.num_heads >= 1, "attention.num_heads", self.num_heads, "at least 1")
        require(self.head_dim >= 1, "attention.head_dim", self.head_dim, "at least 1")
        require(
            self.num_kv_heads is None
            or (self.num_kv_heads >= 1 and self.num_heads % self.num_kv_heads == 0),
            "attention.num_kv_heads",
            self.num_kv_heads,
            f"a divisor of attention.num_heads ({self.num_heads})",
        )
        self._check_window()

    def _check_window(self) -> None:
        pattern, field = list(self.window_pattern), "attention.window_pattern"
        if self.window is None:
            require(pattern == [True], field, pattern, "left out without attention.window")
            return
        require(self.window >= 1, "attention.window", self.window, "at least 1")
        require(
            any(pattern), field, pattern, "a list with true for the layers that have the window"
        )

    def windows(self, num_layers: int) -> tuple[int | None, ...]:
        """The window of each layer of a stack, None where it reads all that came before."""
        pattern = self.window_pattern
        return tuple(self.window if pattern[i % len(pattern)] else None for i in range(num_layers))

    @property
    def kv_heads(self) -> int:
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def rotary_dim(self) -> int:
        """The part of a head that positions may rotate."""
        return self.head_dim

    @property
    def cached(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Heads and width of what a cache holds of a token: keys, values."""
        return (self.kv_heads, self.head_dim), (self.kv_heads, self.head_dim)

    @property
    def q_width(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim

    def num_params(self, d_model: int) -> int:
        """Query, key, value and output projections, their biases, and the norms of queries and
        keys."""
        into = self.q_width + 2 * self.kv_width
        biases = {"none": 0, "qkv": into, "all": into + d_model}[self.bias]
        return d_model * into + biases + self.num_shared_params(d_model)

    def num_replaced_params(self, d_model: int) -> int:
        """Query, key and value projections: what is left out where experts project."""
        return d_model * (self.q_width + 2 * self.kv_width)

    def num_shared_params(self, d_model: int) -> int:
        """The output projection, the norms and the sinks: what all experts share where they
        project, which have no biases."""
        norms = {"none": 0, "head": 2 * self.head_dim, "full": self.q_width + self.kv_width}
        return d_model * self.q_width + norms[self.qk_norm] + self.sinks * self.num_heads

    def num_expert_params(self, d_model: int) -> int:
        """A projection to queries and one to what is key and value both."""
        return d_model * (self.q_width + self.kv_width)

    def projection_flops(self, d_model: int, queries: int, keys: int) -> int:
        """Query and output products of ``queries`` rows, key and value products of ``keys``."""
        return 4 * d_model * (queries * self.q_width + keys * self.kv_width)

    def score_flops(self, queries: int, keys: int) -> int:
        """Scores and weighted values of ``queries`` against ``keys``, of which sinks are one more.
        What a mask leaves out, later or beyond a window, is multiplied all the same."""
        return 4 * queries * (keys + self.sinks) * self.q_width


Attention = AttentionConfig | LatentAttention
