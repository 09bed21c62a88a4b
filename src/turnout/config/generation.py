"""How text is generated; read without torch by the command line."""

from dataclasses import dataclass

from turnout.config.errors import require


@dataclass(frozen=True)
class GenerateOptions:
    """Greedy at ``temperature`` 0, sampled above it.

    ``top_k`` keeps the k most probable tokens, ``top_p`` then the fewest whose probabilities
    reach p; None keeps all. A token of ``stop_ids`` ends its sequence and is not returned.
    ``start_id`` is what the decoder of an encoder-decoder reads first.
    ``visible_prompt`` lets the tokens of a decoder's prompt read each other in both directions,
    as a model trained with a visible prefix expects; an encoder's prompt always does.
    ``label`` is the label of every row, for models whose routers read one.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    stop_ids: tuple[int, ...] = ()
    start_id: int = 0
    visible_prompt: bool = False
    label: int | None = None

    def __post_init__(self) -> None:
        require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "at least 1")
        require(
            self.temperature == 0 or 1e-6 <= self.temperature < float("inf"),
            "temperature",
            self.temperature,
            "0 or at least 0.000001",
            "0 takes the most probable token",
        )
        require(self.top_k is None or self.top_k >= 1, "top_k", self.top_k, "at least 1")
        require(self.top_p is None or 0 < self.top_p <= 1, "top_p", self.top_p, "in (0, 1]")
