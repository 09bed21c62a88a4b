"""``turnout.load`` and ``turnout.save``."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from turnout import models
from turnout.checkpoint import folders
from turnout.checkpoint.format import CheckpointError
from turnout.checkpoint.read import shortened
from turnout.config import io
from turnout.config.errors import ConfigError, UserError
from turnout.config.model import EncoderDecoderConfig
from turnout.config.objective import CausalConfig, SpanConfig
from turnout.config.train import RunConfig
from turnout.convert.conversion import SHARD, arriving, run_of, to_foreign
from turnout.convert.families.base import Layout
from turnout.convert.folder import is_foreign, open_foreign
from turnout.convert.hub import located
from turnout.convert.mapping import map_foreign, natives
from turnout.convert.native import open_native, split, write_native
from turnout.convert.source import Held
from turnout.models.base import Model

Format = Literal["turnout", "huggingface"]


@dataclass(frozen=True)
class Contents:
    """A model that is stored.

    Attributes:
        folder: where.
        run: its configuration without what belonged to its own training; of a Hugging Face folder
            that of its model and its tokenizer.
        tensors: our names and tensors, read one by one, once.
        trained: whether the configuration is that which the weights were trained with: not in a
            Hugging Face folder, nor in what was made of one.
    """

    folder: Path
    run: RunConfig
    tensors: Iterator[tuple[str, Tensor]]
    trained: bool


@dataclass(frozen=True)
class Filled:
    """What became of a model's parameters and buffers, by name.

    Attributes:
        filled: taken over.
        fresh: left as they were: not there, or in another shape.
        unused: what was there and the model does not have so, with its shape.
    """

    filled: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


def load(
    path: str | Path, *, dtype: torch.dtype = torch.float32, imitate: str | None = None
) -> Model:
    """A model from a run's folder, one of its steps, or a Hugging Face folder.

    Where there is no such folder, ``org/name`` (or ``org/name@revision``) is a model on the Hugging
    Face hub, of which the safetensors, the configuration and the tokenizer's files are fetched into
    the hub's cache. The model is in evaluation mode and trains after ``model.train()``. Parameters
    are float32.

    Args:
        dtype: what it computes in.
        imitate: ``transformers`` makes a Hugging Face folder evaluate as there, where that is not
            what the paper says (docs/convert.md).

    Raises:
        UserError: one line: what is missing, damaged, left over, not to be fetched, or not known to
            this version; nothing to imitate.
    """
    opened = contents(path, imitate)
    model = models.build(opened.run.model, dtype=dtype)
    _fill(model, opened.tensors, opened.folder)
    return model.eval()


def contents(path: str | Path, imitate: str | None = None) -> Contents:
    """What ``load`` fills a model from.

    Raises:
        UserError: as ``load``.
    """
    folder = located(path)
    if is_foreign(folder):
        foreign = open_foreign(folder)
        mapped = map_foreign(foreign, imitate)
        return Contents(folder, run_of(foreign, mapped)[0], natives(foreign, mapped), False)
    if imitate is not None:
        raise UserError(f"imitate = {imitate!r}: goes with a Hugging Face folder; {folder} is none")
    native = open_native(folder)
    tensors = ((name, native.read(name)) for name in native.names)
    return Contents(folder, native.run.standing_alone(), tensors, "seeds" in native.meta)


@torch.no_grad()
def fill(model: Model, tensors: Iterable[tuple[str, Tensor]]) -> Filled:
    """Copies into ``model`` what it has under the same name and in the same shape."""
    wanted = model.state_dict()
    filled, unused = [], []
    for name, tensor in tensors:
        into = wanted.get(name)
        if into is None or into.shape != tensor.shape:
            unused.append(f"{name} {list(tensor.shape)}")
            continue
        into.copy_(tensor)
        filled.append(name)
    fresh = sorted(wanted.keys() - set(filled))
    return Filled(tuple(filled), tuple(fresh), tuple(unused))


def save(
    model: Model,
    path: str | Path,
    *,
    format: Format = "turnout",
    layout: Layout = "experts",
    dtype: torch.dtype | None = None,
) -> Path:
    """Writes a model as a run's folder that ``load`` and ``turnout generate`` read, or as a Hugging
    Face one that transformers reads.

    Args:
        layout: of Hugging Face experts: a tensor an expert, or all of a layer in one.
        dtype: of a Hugging Face folder's tensors; float32 unless given.

    Raises:
        UserError: no family of Hugging Face is this model, or the folder is there already.
    """
    target = Path(path)
    if format == "huggingface":
        to_foreign(Held(model), target, layout=layout, dtype=dtype)
    elif format == "turnout":
        _save_native(model, target)
    else:
        raise ConfigError("format", format, "'turnout' or 'huggingface'")
    return target


def _save_native(model: Model, target: Path) -> None:
    held = Held(model)
    encoder = isinstance(model.config, EncoderDecoderConfig)
    run = RunConfig(model.config, SpanConfig() if encoder else CausalConfig())
    meta = {"step": 0, "tokens": 0, "config": io.to_dict(run)}
    planned = [held.planned(name) for name in held.names]
    with arriving(target) as place:
        tensors = (held.read(name) for name in held.names)
        write_native(folders.step_folder(place, 0), meta, split(planned, SHARD), tensors)


def _fill(model: Model, tensors: Iterable[tuple[str, Tensor]], folder: Path) -> None:
    """Raises CheckpointError unless every parameter is filled with one of its shape."""
    found = fill(model, tensors)
    if found.unused:
        raise CheckpointError(f"{folder}: {shortened(found.unused)} is of another model")
    if found.fresh:
        raise CheckpointError(f"{folder}: lacks {shortened(found.fresh)}")
