"""Both directions, streaming: in memory are the tensors of one rule and what becomes of them."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from turnout.checkpoint import folders
from turnout.checkpoint.stream import Planned
from turnout.config import io
from turnout.config.errors import UserError
from turnout.config.model import EncoderDecoderConfig, ModelConfig
from turnout.config.objective import CausalConfig, SpanConfig
from turnout.config.tokenizers import SentencePieceConfig, TokenizerJsonConfig
from turnout.config.train import RunConfig
from turnout.convert.essence import differences
from turnout.convert.families import FAMILIES, Family, Read
from turnout.convert.families.base import HARMLESS, Layout
from turnout.convert.folder import COMPANIONS, CONFIG, Foreign, read_json, within
from turnout.convert.foreign_files import write_foreign
from turnout.convert.imitation import imitates, imitating
from turnout.convert.mapping import Mapped, check_copies, natives, parameters
from turnout.convert.native import CARRIED, split, write_native
from turnout.convert.rules import Bound, bind
from turnout.convert.source import Source
from turnout.data.tokenizers import load as tokenizers

SHARD = 5 * 10**9  # bytes
# Fields of the checkpoint that it came from which are not ours to set.
KEPT = HARMLESS - {"architectures", "model_type", "dtype", "torch_dtype", "max_position_embeddings"}
Progress = Callable[[int, int], None]  # tensors written, and of how many


@dataclass(frozen=True)
class Written:
    """What came of a conversion.

    Attributes:
        tensors, parameters, size: how many were written, and their bytes.
        notes: what was left out or could not be taken along, and why.
    """

    folder: Path
    family: Family
    layout: Layout
    tensors: int
    parameters: int
    size: int
    notes: tuple[str, ...]


def to_native(
    foreign: Foreign,
    mapped: Mapped,
    target: Path,
    *,
    shard: int = SHARD,
    progress: Progress | None = None,
) -> Written:
    """Writes a run's folder from a Hugging Face one, in the dtypes that it has.

    Raises:
        UserError: the target is there already, or a tensor is not the copy that it must be.
    """
    check_copies(foreign, mapped)
    shapes = {name: tuple(tensor.shape) for name, tensor in parameters(mapped.config).items()}
    planned = [
        Planned(name, foreign.dtype(each.foreign[0]), shapes[name])
        for each in mapped.bound
        for name in each.native
    ]
    config, notes = run_of(foreign, mapped)
    with arriving(target) as place:
        step = folders.step_folder(place, 0)
        meta: dict[str, Any] = {"step": 0, "tokens": 0, "config": io.to_dict(config)}
        note, fingerprint = keep_tokenizer(config, foreign, place)
        meta |= fingerprint
        arriving_tensors = map(itemgetter(1), natives(foreign, mapped))
        tensors = _counted(arriving_tensors, len(planned), progress)
        write_native(step, meta, split(planned, shard), tensors)
        for name in (CONFIG, *COMPANIONS):
            if (foreign.folder / name).exists():
                (place / CARRIED).mkdir(exist_ok=True)
                shutil.copyfile(within(foreign.folder, name), place / CARRIED / name)
    return _written(target, mapped.family, mapped.layout, planned, (*mapped.notes, *notes, *note))


def to_foreign(
    source: Source,
    target: Path,
    *,
    layout: Layout = "experts",
    dtype: torch.dtype | None = None,
    shard: int = SHARD,
    progress: Progress | None = None,
) -> Written:
    """Writes a Hugging Face folder from our tensors.

    Args:
        dtype: of all floating tensors; as they are unless given.

    Raises:
        UserError: no family can say what the model is, or the target is there already.
    """
    model = source.config
    carried = dict(carried_files(source.carried))
    base = original(source)
    base.pop("quantization_config", None)  # what is written is not quantised
    family, table = written_by(model, base.get("model_type"))
    bound = _without_copies(bind(family.rules(model, layout, _names(source)), model.stacks()))
    planned = [entry for each in bound for entry in _planned(source, each, dtype)]
    keeps = KEPT if imitates(model) else KEPT | family.kept
    kept = {name: value for name, value in base.items() if name in keeps}
    word = _word(planned)
    config = {**base, **table, **kept, "dtype": word, "torch_dtype": word}
    with arriving(target) as place:
        tensors = _counted(_foreign(source, bound, dtype), len(planned), progress)
        write_foreign(place, config, split(planned, shard), tensors)
        for name in COMPANIONS:
            if name in carried:
                shutil.copyfile(carried[name], place / name)
    note = "no tokenizer files: there are none of Hugging Face's; add the tokenizer's own"
    tokenizer = any("token" in name or "spiece" in name for name in carried)
    return _written(target, family, layout, planned, () if tokenizer else (note,))


def original(source: Source) -> dict[str, Any]:
    """The configuration of the checkpoint that a run came from; empty where there is none."""
    carried = dict(carried_files(source.carried))
    return read_json(carried[CONFIG]) if CONFIG in carried else {}


def written_by(config: ModelConfig, first: object = None) -> tuple[Family, dict[str, Any]]:
    """The family that can say what a model is, and its configuration, which read again gives the
    same function.

    Args:
        first: the ``model_type`` that is tried before the others.

    Raises:
        UserError: there is none.
    """
    closest: list[str] | None = None
    for family in sorted(FAMILIES, key=lambda family: family.model_type != first):
        found = family.write(config)
        if found is None:
            continue
        own = {"architectures": [family.architectures[0]], "model_type": family.model_type}
        table = {**own, **found}
        values = Read(table)
        again = family.read(values, frozenset({"lm_head.weight"}))
        apart = differences(config, imitating(family, again, values) if imitates(config) else again)
        if not apart:
            return family, table
        if closest is None or len(apart) < len(closest):
            closest = [f"{family.model_type} has no {field}" for field in apart]
    why = f": {closest[0]}" if closest else ""
    raise UserError(
        f"model.kind = {config.kind!r}: no family of Hugging Face computes what this model does"
        f"{why}; known are {', '.join(family.model_type for family in FAMILIES)}"
    )


@contextmanager
def arriving(target: Path) -> Iterator[Path]:
    """A folder beside the target that takes its place when all went well, and else goes.

    Raises:
        UserError: the target is there already and not empty.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target}: is there already; name a new folder")
    place = target.parent / f".{target.name}.part"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        yield place
        if target.exists():
            target.rmdir()
        place.rename(target)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def run_of(foreign: Foreign, mapped: Mapped) -> tuple[RunConfig, tuple[str, ...]]:
    """A run of the model with the tokenizer of its folder; what could not be taken along."""
    encoder = isinstance(mapped.config, EncoderDecoderConfig)
    config = RunConfig(mapped.config, SpanConfig() if encoder else CausalConfig())
    tokenizer = tokenizer_of(foreign.folder)
    if tokenizer is None:
        return config, ("no tokenizer.json or spiece.model: prompts will be read as bytes",)
    return replace(config, data=replace(config.data, tokenizer=tokenizer)), ()


def tokenizer_of(folder: Path) -> TokenizerJsonConfig | SentencePieceConfig | None:
    """The configuration of the tokenizer in a Hugging Face folder, if it has one.

    Raises:
        UserError: its file leads out of the folder.
    """
    kinds = (("tokenizer.json", TokenizerJsonConfig), ("spiece.model", SentencePieceConfig))
    for name, kind in kinds:
        if (folder / name).exists():
            return kind(str(within(folder, name)))
    return None


def keep_tokenizer(
    config: RunConfig, foreign: Foreign, place: Path
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Its copy in the run's folder, as training keeps one; a note where it cannot be read."""
    asked = config.data.tokenizer
    if not isinstance(asked, TokenizerJsonConfig | SentencePieceConfig):
        return (), {}
    try:
        content = within(foreign.folder, Path(asked.path).name).read_bytes()
        tokenizer = tokenizers.from_content(asked, content)
    except UserError as error:
        return (f"the tokenizer cannot be used: {error}",), {}
    tokenizers.save(tokenizer, place)
    return (), {"tokenizer": tokenizer.fingerprint}


def _names(source: Source) -> frozenset[str]:
    """What a table with an encoder may ask: whether the head is the embedding."""
    if "head.weight" not in source.names or not isinstance(source.config, EncoderDecoderConfig):
        return frozenset()
    same = torch.equal(source.read("head.weight"), source.read("embedding.weight"))
    return frozenset({"shared.weight"}) if same else frozenset()


def _without_copies(bound: Sequence[Bound]) -> list[Bound]:
    """Each of their tensors once."""
    return list({each.foreign: each for each in reversed(bound)}.values())[::-1]


def carried_files(folder: Path | None) -> Iterator[tuple[str, Path]]:
    """The files of a Hugging Face checkpoint that a run keeps, where it keeps them."""
    for name in (CONFIG, *COMPANIONS):
        if folder is not None and (folder / name).is_file():
            yield name, folder / name


def _planned(source: Source, each: Bound, dtype: torch.dtype | None) -> list[Planned]:
    ours = [source.planned(name) for name in each.native]
    meta = [torch.empty(plan.shape, dtype=_as(plan.dtype, dtype), device="meta") for plan in ours]
    theirs = zip(each.foreign, each.operation.to_foreign(meta), strict=True)
    return [Planned(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in theirs]


def _foreign(source: Source, bound: Sequence[Bound], dtype: torch.dtype | None) -> Iterator[Tensor]:
    def cast(tensor: Tensor) -> Tensor:
        return tensor.to(_as(tensor.dtype, dtype))

    for each in bound:
        yield from map(cast, each.operation.to_foreign(map(source.read, each.native)))


def _as(own: torch.dtype, asked: torch.dtype | None) -> torch.dtype:
    return own if asked is None or not own.is_floating_point else asked


def _counted(tensors: Iterator[Tensor], count: int, progress: Progress | None) -> Iterator[Tensor]:
    """The same; none is held while the next one is made, for which a name of it would be enough."""
    for number in range(count):
        yield next(tensors)
        if progress is not None:
            progress(number + 1, count)


def _word(planned: Sequence[Planned]) -> str:
    """The dtype of most of the bytes, as a configuration names it."""
    sizes: dict[str, int] = {}
    for each in planned:
        word = str(each.dtype).removeprefix("torch.")
        sizes[word] = sizes.get(word, 0) + each.size
    return max(sizes, key=lambda word: sizes[word])


def _written(
    target: Path, family: Family, layout: Layout, planned: Sequence[Planned], notes: Sequence[str]
) -> Written:
    return Written(
        folder=target,
        family=family,
        layout=layout,
        tensors=len(planned),
        parameters=sum(each.size // each.dtype.itemsize for each in planned),
        size=sum(each.size for each in planned),
        notes=tuple(notes),
    )
