"""Multi-head latent attention: keys and values out of one narrow vector a token."""

from dataclasses import dataclass
from typing import ClassVar

from turnout.config.errors import require


@dataclass(frozen=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2, 2405.04434, section 2.1; DeepSeek-V3).

    A token's latent of ``kv_lora_rank`` is projected up to a key part of ``qk_nope_head_dim`` and a
    value of ``v_head_dim`` for each head; beside the latent stands one rotated key part of
    ``qk_rope_head_dim`` for all heads. Latent and rotated part are all that a cache holds. Queries
    come through a latent of ``q_lora_rank``, or straight from the states where it is None
    (DeepSeek-V2-Lite). Both latents are normalised. The names are those of the published models.
    """

    kind: ClassVar[str] = "latent"
    num_heads: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    q_lora_rank: int | None = None

    def __post_init__(self) -> None:
        for name in ("num_heads", "kv_lora_rank", "qk_nope_head_dim", "v_head_dim"):
            require(
                getattr(self, name) >= 1, f"attention.{name}", getattr(self, name), "at least 1"
            )
        require(
            self.q_lora_rank is None or self.q_lora_rank >= 1,
            "attention.q_lora_rank",
            self.q_lora_rank,
            "at least 1, or none",
        )
        require(
            self.qk_rope_head_dim >= 2 and self.qk_rope_head_dim % 2 == 0,
            "attention.qk_rope_head_dim",
            self.qk_rope_head_dim,
            "even, at least 2",
        )

    @property
    def qk_head_dim(self) -> int:
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def rotary_dim(self) -> int:
        """The part of a head that positions may rotate."""
        return self.qk_rope_head_dim

    @property
    def q_width(self) -> int:
        return self.num_heads * self.qk_head_dim

    @property
    def v_width(self) -> int:
        return self.num_heads * self.v_head_dim

    @property
    def cached(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Heads and width of what a cache holds of a token: the rotated key part, the latent."""
        return (1, self.qk_rope_head_dim), (1, self.kv_lora_rank)

    def windows(self, num_layers: int) -> tuple[int | None, ...]:
        """The window of each layer of a stack: none."""
        return (None,) * num_layers

    def num_params(self, d_model: int) -> int:
        """All projections and the norms of the latents."""
        norms = self.kv_lora_rank + (self.q_lora_rank or 0)
        return self._query_matrices(d_model) + self._key_matrices(d_model) + norms

    def num_shared_params(self, d_model: int) -> int:
        """All of it: experts make none of these projections."""
        return self.num_params(d_model)

    def num_replaced_params(self, d_model: int) -> int:
        return 0

    def num_expert_params(self, d_model: int) -> int:
        return 0

    def projection_flops(self, d_model: int, queries: int, keys: int) -> int:
        """Query and output products of ``queries`` rows; of ``keys`` rows, the latents and what is
        projected up from them."""
        return 2 * (queries * self._query_matrices(d_model) + keys * self._key_matrices(d_model))

    def score_flops(self, queries: int, keys: int) -> int:
        """Scores and weighted values of ``queries`` against ``keys``, masked or not."""
        return 2 * queries * keys * (self.q_width + self.v_width)

    def _query_matrices(self, d_model: int) -> int:
        """To the queries, and from the heads' sums to the output."""
        rank = self.q_lora_rank
        into = d_model * self.q_width if rank is None else rank * (d_model + self.q_width)
        return into + self.v_width * d_model

    def _key_matrices(self, d_model: int) -> int:
        """Down to the latent and the rotated part, up to keys and values."""
        up = self.num_heads * (self.qk_nope_head_dim + self.v_head_dim)
        return d_model * (self.kv_lora_rank + self.qk_rope_head_dim) + self.kv_lora_rank * up
