"""What a conversion reads our tensors from: a checkpoint of either kind, or a model in memory."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import final

from torch import Tensor

from turnout.checkpoint.stream import Planned
from turnout.config.model import ModelConfig
from turnout.convert.folder import Foreign
from turnout.convert.mapping import Mapped, made, parameters
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


@final
class Translated(Source):
    """A Hugging Face folder by our names; in memory are the tensors of the last rule that was
    asked for."""

    def __init__(self, foreign: Foreign, mapped: Mapped) -> None:
        self.config = mapped.config
        self.carried = foreign.folder
        self._foreign = foreign
        self._rules = {name: each for each in mapped.bound for name in each.native}
        self._shapes = {name: tuple(t.shape) for name, t in parameters(mapped.config).items()}
        self._last: Mapping[str, Tensor] = {}

    @property
    def names(self) -> list[str]:
        return list(self._shapes)

    def planned(self, name: str) -> Planned:
        dtype = self._foreign.dtype(self._rules[name].foreign[0])
        return Planned(name, dtype, self._shapes[name])

    def read(self, name: str) -> Tensor:
        if name not in self._last:
            each = self._rules[name]
            self._last = {}
            self._last = dict(zip(each.native, made(self._foreign, each), strict=True))
        return self._last[name]
