"""Adapters as peft 0.21 keeps those of the transformers model that ``turnout convert`` writes.

A family's table of conversion says which tensors of theirs are made of which of ours and how; here
is what becomes of the two factors of an adapter then. peft itself is not imported.

Axes: E experts, F hidden width, W twice that, I inputs, O outputs, R rank.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from turnout.checkpoint.stream import Planned, write_stream
from turnout.checkpoint.write import replace_file
from turnout.config.errors import UserError
from turnout.config.lora import LoraConfig
from turnout.config.model import EncoderDecoderConfig, ModelConfig
from turnout.convert.conversion import arriving, original, written_by
from turnout.convert.families import Family
from turnout.convert.native import open_native
from turnout.convert.operations import Alternating, GateUp, Operation, Same, Stacked, Transposed
from turnout.convert.rules import Bound, bind
from turnout.models.adapters import MARK, carried, extract
from turnout.models.base import Model

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
# Modules whose weight is named as a parameter. Routers are classes of their own, no linear maps;
# and of linear maps with these names peft takes whichever it meets for parts of fused experts.
AS_PARAMETERS = frozenset({"router", "gate", "gate_proj", "up_proj", "down_proj"})
Pair = tuple[Tensor, Tensor]  # A and B as our adapters have them


@dataclass(frozen=True)
class Factors:
    """The product of an adapter in peft's layout, which is the same whichever way the matrix lies.

    Attributes:
        a: of a matrix [R, I]; of stacked ones an expert's rows behind the other's.
        b: of a matrix [O, R]; of stacked ones the columns of all experts for each of R.
        rank: R.
    """

    a: Float[Tensor, "ER I"]
    b: Float[Tensor, "O RE"]
    rank: int


@dataclass(frozen=True)
class Saved:
    """What was written.

    Attributes:
        names: the adapted tensors, as the transformers model's ``named_parameters()`` has them.
        notes: what is otherwise there; for people.
    """

    folder: Path
    family: Family
    names: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Source:
    """What is to be written, in our names."""

    model: ModelConfig
    lora: LoraConfig
    tensors: Mapping[str, Tensor]
    model_type: object = None


def save_adapter(source: Model | str | Path, folder: str | Path, base: str = "") -> Saved:
    """Writes ``adapter_model.safetensors`` and ``adapter_config.json`` for the transformers model
    that ``turnout convert RUN TARGET --lora base`` writes.

    Args:
        source: a model with adapters, or a run that trains them: the moving averages where it
            keeps them.
        base: path or name of that transformers model, for tools that look for it.

    Raises:
        UserError: there are no adapters, no family can say what the model is, transformers has no
            class of it, or the folder is there already.
    """
    held = _of_model(source) if isinstance(source, Model) else _of_run(Path(source))
    family, _ = written_by(held.model, held.model_type)
    if not family.has_class:
        raise UserError(f"{family.model_type}: transformers has no class of it for peft to adapt")
    bound = bind(family.rules(held.model, "fused", frozenset()), held.model.stacks())
    found = _renamed(family, _factors_of(bound, held.tensors))
    target = Path(folder)
    config, notes = _config(held, found, base)
    with arriving(target) as place:
        named = _named(found)
        plan = [Planned(name, t.dtype, tuple(t.shape)) for name, t in named.items()]
        write_stream(place / WEIGHTS, plan, iter(named.values()), {"format": "pt"})
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        replace_file(place / CONFIG, text.encode())
    return Saved(target, family, tuple(found), notes)


def _of_model(model: Model) -> _Source:
    found = list(carried(model))
    if not found:
        raise UserError("the model has no adapters: models.adapters.adapt puts them there")
    first = found[0].adapter
    lora = LoraConfig(first.rank, first.scale * first.rank, first.dropout.p)
    return _Source(model.config, lora, extract(model))


def _of_run(run: Path) -> _Source:
    native = open_native(run, merge=False)
    lora = native.run.lora
    if lora is None:
        raise UserError(f"{run}: the run trains no adapters; its lora is none")
    tensors = {name: native.read(name) for name in native.adapters}
    return _Source(native.config, lora, tensors, original(native).get("model_type"))


def _factors_of(bound: Sequence[Bound], tensors: Mapping[str, Tensor]) -> dict[str, Factors]:
    """The factors beside each adapted tensor of theirs, by its name in their files."""
    left = dict(tensors)
    found: dict[str, Factors] = {}
    for each in bound:
        pairs = [_taken(name, left) for name in each.native]
        if any(pair is not None for pair in pairs):
            found.update(zip(each.foreign, factors(each.operation, pairs), strict=True))
    assert not left, f"no rule takes {sorted(left)}"
    return found


def _taken(name: str, left: dict[str, Tensor]) -> Pair | None:
    if f"{name}{MARK}.a" not in left:
        return None
    return left.pop(f"{name}{MARK}.a"), left.pop(f"{name}{MARK}.b")


@singledispatch
def factors(operation: Operation, pairs: Sequence[Pair | None]) -> list[Factors]:
    """Those beside each tensor that ``operation`` makes of ours; ``pairs`` are the adapters of
    ours, None where a matrix has none."""
    raise TypeError(f"no adapters of {type(operation).__name__}")


@factors.register
def _(operation: Same | Transposed, pairs: Sequence[Pair | None]) -> list[Factors]:
    (pair,) = pairs
    assert pair is not None
    a, b = pair
    return [Factors(a, b, len(a)) if a.dim() == 2 else _stacked(a, b)]


@factors.register
def _(operation: Stacked, pairs: Sequence[Pair | None]) -> list[Factors]:
    (pair,) = pairs
    assert pair is not None
    return [Factors(a.T, b.T, a.shape[1]) for a, b in zip(*pair, strict=True)]


@factors.register
def _(operation: GateUp, pairs: Sequence[Pair | None]) -> list[Factors]:
    """Both A side by side, B in blocks: each adapter's outputs stay in its own half."""

    def placed(b: Float[Tensor, "E R F"], half: int) -> Float[Tensor, "E R W"]:
        width = b.shape[2]
        return pad(b, (half * width, (1 - half) * width))

    return [_fused([(a, placed(b, i)) for i, (a, b) in _present(pairs)])]


@factors.register
def _(operation: Alternating, pairs: Sequence[Pair | None]) -> list[Factors]:
    """The same, the outputs of both in turns."""

    def placed(b: Float[Tensor, "E R F"], turn: int) -> Float[Tensor, "E R W"]:
        both = (b, torch.zeros_like(b)) if turn == 0 else (torch.zeros_like(b), b)
        return torch.stack(both, dim=-1).flatten(-2)

    return [_fused([(a, placed(b, i)) for i, (a, b) in _present(pairs)])]


def _present(pairs: Sequence[Pair | None]) -> list[tuple[int, Pair]]:
    return [(number, pair) for number, pair in enumerate(pairs) if pair is not None]


def _fused(pairs: Sequence[Pair]) -> Factors:
    return _stacked(torch.cat([a for a, _ in pairs], dim=2), torch.cat([b for _, b in pairs], 1))


def _stacked(a: Float[Tensor, "E I R"], b: Float[Tensor, "E R O"]) -> Factors:
    return Factors(a.mT.flatten(0, 1), b.permute(2, 1, 0).flatten(1), a.shape[2])


def _renamed(family: Family, found: Mapping[str, Factors]) -> dict[str, Factors]:
    """By the names that the tensors have in the model itself."""

    def loaded(name: str) -> str:
        for regex, own in family.loaded.items():
            name = re.sub(regex, own, name)
        return name

    return {loaded(name): each for name, each in found.items()}


def _named(found: Mapping[str, Factors]) -> dict[str, Tensor]:
    """The tensors of the file. What adapts several parameters of one module is nested, the module's
    first parameter innermost."""
    beside: dict[str, list[str]] = defaultdict(list)
    for name in found:
        beside[name.rpartition(".")[0]].append(name)
    tensors = {}
    for module, names in beside.items():
        # Of all that is fused the way out comes last.
        names.sort(key=lambda name: name.endswith(".down_proj"))
        for depth, name in enumerate(reversed(names)):
            place = f"base_model.model.{module}.{'base_layer.' * depth}lora_"
            tensors[f"{place}A.weight"] = found[name].a.contiguous()
            tensors[f"{place}B.weight"] = found[name].b.contiguous()
    return dict(sorted(tensors.items()))


def _config(
    held: _Source, found: Mapping[str, Factors], base: str
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """``adapter_config.json``, and what is to be said of it."""
    lora = held.lora
    parameters = sorted(name for name in found if _as_parameter(name))
    linear = sorted(name.removesuffix(".weight") for name in found if not _as_parameter(name))
    ranks = _rank_pattern(found, lora.rank)
    scale = lora.alpha / lora.rank
    two = isinstance(held.model, EncoderDecoderConfig)
    notes: tuple[str, ...] = ()
    if parameters and lora.dropout:
        notes = (f"lora_dropout is 0 and not {lora.dropout:g}: peft has none beside parameters",)
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_2_SEQ_LM" if two else "CAUSAL_LM",
        "base_model_name_or_path": base or None,
        "inference_mode": True,
        "r": lora.rank,
        "lora_alpha": _number(lora.alpha),
        "lora_dropout": 0.0 if parameters else lora.dropout,
        "target_modules": linear,
        "target_parameters": parameters or None,
        "rank_pattern": ranks,
        "alpha_pattern": {name: _number(scale * rank) for name, rank in ranks.items()},
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "use_dora": False,
        "use_rslora": False,
        "modules_to_save": None,
    }, notes


def _as_parameter(name: str) -> bool:
    """Whether peft is told of a parameter and not of a linear map."""
    *_, module, last = name.split(".")
    return last != "weight" or module in AS_PARAMETERS


def _rank_pattern(found: Mapping[str, Factors], usual: int) -> dict[str, int]:
    """Ranks that are not the usual one: by the last name where all of that name have it."""
    last = {name: name.removesuffix(".weight").rpartition(".")[2] for name in found}
    kinds = Counter((last[name], each.rank) for name, each in found.items())
    uniform = Counter(name for name, _ in kinds)
    return {
        rf".*\.{last[name]}" if uniform[last[name]] == 1 else re.escape(name): each.rank
        for name, each in found.items()
        if each.rank != usual
    }


def _number(value: float) -> int | float:
    return int(value) if value == int(value) else value
