"""What is predicted from what: the forms that a row of training text can take.

Each says whether the tokens of a decoder's prompt read each other in both directions
(``visible_prompt``), in training as in generation.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from turnout.config.errors import check_words, require


@dataclass(frozen=True)
class CausalConfig:
    """Predict the next token."""

    kind: ClassVar[str] = "causal"
    visible_prompt: ClassVar[bool] = False


@dataclass(frozen=True)
class SpanConfig:
    """T5's span corruption: mask ``noise_density`` of the tokens in spans of ``mean_span``."""

    kind: ClassVar[str] = "span"
    visible_prompt: ClassVar[bool] = False
    noise_density: float = 0.15
    mean_span: float = 3.0

    def __post_init__(self) -> None:
        require(
            0 < self.noise_density < 1, "objective.noise_density", self.noise_density, "in (0, 1)"
        )
        require(1 <= self.mean_span < math.inf, "objective.mean_span", self.mean_span, "at least 1")


@dataclass(frozen=True)
class PrefixConfig:
    """Prefix language modelling (T5, 1910.10683, sections 3.2.1 and 3.3.1): text is split at a
    random place, and what follows is predicted from what precedes."""

    kind: ClassVar[str] = "prefix"
    visible_prompt: ClassVar[bool] = True


@dataclass(frozen=True)
class TextToTextConfig:
    """Examples of two strings: ``targets`` are predicted from ``inputs``, which carry no loss.

    ``inputs`` and ``targets`` name the fields of a ``.jsonl`` file. A row holds up to
    ``max_examples`` of them, each a segment of its own. What is ``too_long`` is cut (see
    ``data.text_to_text``) or refused. ``visible_inputs`` lets the inputs of a decoder-only model
    read each other in both directions; those of an encoder always do.
    """

    kind: ClassVar[str] = "text_to_text"
    inputs: str = "inputs"
    targets: str = "targets"
    max_examples: int = 16
    too_long: Literal["cut", "refuse"] = "cut"
    visible_inputs: bool = False

    def __post_init__(self) -> None:
        check_words(self, "objective")
        require(bool(self.inputs), "objective.inputs", self.inputs, "the name of a field")
        require(
            bool(self.targets) and self.targets != self.inputs,
            "objective.targets",
            self.targets,
            f"the name of a field other than objective.inputs ({self.inputs!r})",
        )
        require(self.max_examples >= 1, "objective.max_examples", self.max_examples, "at least 1")

    @property
    def visible_prompt(self) -> bool:
        return self.visible_inputs


ObjectiveConfig = CausalConfig | SpanConfig | PrefixConfig | TextToTextConfig
