"""What a conversion reads our tensors from: a checkpoint, or a model in memory."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import final

from torch import Tensor

from turnout.checkpoint.stream import Planned
from turnout.config.model import ModelConfig
from turnout.models.adapters import merged
from turnout.models.base import Model


class Source(ABC):
    """Parameters and saved buffers by name.

    Attributes:
        config: of the model.
        carried: where the files of the checkpoint that it came from are kept, if anywhere.
    """

    config: ModelConfig
    carried: Path | None

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """In the order of the model."""

    @abstractmethod
    def planned(self, name: str) -> Planned:
        """What ``read`` will give."""

    @abstractmethod
    def read(self, name: str) -> Tensor:
        """One of them."""


@final
class Held(Source):
    """A model in memory, its adapters merged."""

    def __init__(self, model: Model) -> None:
        self.config = model.config
        self.carried = None
        self._tensors: dict[str, Tensor] = merged(model).state_dict()

    @property
    def names(self) -> list[str]:
        return list(self._tensors)

    def planned(self, name: str) -> Planned:
        tensor = self._tensors[name]
        return Planned(name, tensor.dtype, tuple(tensor.shape))

    def read(self, name: str) -> Tensor:
        return self._tensors[name]
