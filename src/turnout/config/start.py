"""What a run begins with: fresh weights, or those of a model that is there."""

from dataclasses import dataclass
from typing import Literal

from turnout.config.errors import check_words, require


@dataclass(frozen=True)
class StartConfig:
    """Weights of a run's folder, of one of its steps, or of a Hugging Face folder.

    An empty ``path`` draws fresh ones from ``train.seed``. ``weights = "all"`` wants every
    parameter from there and nothing left over; ``"shared"`` takes what has the same name and shape
    in both and leaves the others fresh, as the dense student of a sparse teacher begins (Switch
    Transformers, 2101.03961, section 4.2: the weights that are not an expert's).
    """

    path: str = ""
    weights: Literal["all", "shared"] = "all"

    def __post_init__(self) -> None:
        check_words(self, "start")
        require(
            bool(self.path) or self.weights == "all",
            "start.weights",
            self.weights,
            "left out without start.path",
        )
