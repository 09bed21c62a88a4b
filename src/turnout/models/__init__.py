"""Models built from configurations: ``build(config) -> Model``."""

from turnout.models.base import Model
from turnout.models.build import build
from turnout.models.outputs import ModelOutput
from turnout.models.prepared import prepared

__all__ = ["Model", "ModelOutput", "build", "prepared"]
