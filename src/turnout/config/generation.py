"""How text is generated; read without torch by the command line."""

from dataclasses import dataclass
from typing import Literal

from turnout.config.errors import check_words, positive, require

EarlyStopping = Literal["likely", "first", "never"]


@dataclass(frozen=True)
class GenerateOptions:
    """Greedy at ``temperature`` 0, sampled above it; beam search with ``num_beams`` above 1.

    ``top_k`` keeps the k most probable tokens, ``top_p`` then the fewest whose probabilities
    reach p; None keeps all. A token of ``stop_ids`` ends its sequence and is not returned; before
    ``min_new_tokens`` none is taken.
    ``repetition_penalty`` divides the positive logits of all tokens that the decoder has read or
    written and multiplies the negative ones (CTRL, 1909.05858, section 4.1); 1 leaves them.
    ``start_id`` is what the decoder of an encoder-decoder reads first.
    ``visible_prompt`` lets the tokens of a decoder's prompt read each other in both directions,
    as a model trained with a visible prefix expects; an encoder's prompt always does.
    ``label`` is the label of every row, for models whose routers read one.
    ``compile`` takes the steps of one token through ``torch.compile``, which needs a C++ compiler:
    the first call of a model that is float32 or ``models.prepared`` waits for it, later ones do
    not. Tokens are the same but for ties that rounding decides.

    Beams are ranked by ``sum of log-probabilities / length ** length_penalty``, the length being
    that of the new tokens with the stop token. ``early_stopping`` says when the search for a
    prompt ends, once ``num_beams`` sequences have: ``first`` at once; ``likely`` when the worst of
    them is as good as the best unfinished one would be if it ended now; ``never`` when no
    unfinished one can become better than the worst.
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
    repetition_penalty: float = 1.0
    min_new_tokens: int = 0
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: EarlyStopping = "likely"
    compile: bool = False

    def __post_init__(self) -> None:
        check_words(self, "generate")
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
        positive("repetition_penalty", self.repetition_penalty)
        require(
            0 <= self.min_new_tokens <= self.max_new_tokens,
            "min_new_tokens",
            self.min_new_tokens,
            f"from 0 to max_new_tokens {self.max_new_tokens}",
        )
        self._check_beams()

    def _check_beams(self) -> None:
        require(self.num_beams >= 1, "num_beams", self.num_beams, "at least 1")
        require(
            abs(self.length_penalty) < float("inf"), "length_penalty", self.length_penalty, "finite"
        )
        sampled = self.temperature > 0
        require(
            self.num_beams == 1 or not sampled,
            "num_beams",
            self.num_beams,
            f"1 with temperature {self.temperature:g}",
            "beam search draws nothing: set temperature to 0",
        )
        ranked = self.length_penalty != 1.0 or self.early_stopping != "likely"
        require(
            self.num_beams > 1 or not ranked,
            "num_beams",
            self.num_beams,
            "above 1 with length_penalty or early_stopping, which rank beams",
        )
