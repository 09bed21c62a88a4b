"""Low-rank adapters on the matrices of a model (LoRA, Hu et al. 2021, 2106.09685)."""

import copy
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import singledispatch

import torch
from torch import Tensor, nn

from turnout.config.errors import ConfigError, UserError, require
from turnout.config.lora import WORDS, LoraConfig
from turnout.models.base import Model
from turnout.moe.adapter import StackedAdapter
from turnout.moe.experts import Experts, LinearExperts
from turnout.moe.routers.sigmoid_top_k import SigmoidTopK
from turnout.moe.routers.softmax import SoftmaxRouter
from turnout.nn.adapter import MARK, Adapter, delta
from turnout.nn.feed_forward import FeedForward
from turnout.nn.linear import Linear, MatrixAdapter

__all__ = ["MARK", "adapt", "carried", "delta", "extract", "merge", "merged", "report", "targets"]

SALT = 0x10A  # the weights themselves are drawn from the seed as it is


@dataclass(frozen=True)
class Carried:
    """A matrix with an adapter.

    Attributes:
        name: of the matrix, as ``model.named_parameters()`` has it.
        shape: of the matrix.
    """

    name: str
    shape: tuple[int, ...]
    adapter: Adapter

    @property
    def parameters(self) -> int:
        """Those of the adapter."""
        return self.adapter.a.numel() + self.adapter.b.numel()


@dataclass(frozen=True)
class Report:
    """What is adapted.

    Attributes:
        carried: the matrices, in the order of the model.
        trained: parameters that train.
        total: all others.
    """

    carried: tuple[Carried, ...]
    trained: int
    total: int

    def lines(self) -> tuple[str, ...]:
        """The sums, and every matrix by name; those of several blocks in one line, such as
        ``decoder.blocks.0-3,5.feed_forward.moe.experts.w_in [4, 64, 128]``."""
        ranks = sorted({each.adapter.rank for each in self.carried})
        alike: dict[tuple[str, str, tuple[int, ...]], list[int]] = defaultdict(list)
        for each in self.carried:
            stack, number, rest = _parts(each.name)
            alike[stack, rest, each.shape].append(number)
        share = self.trained / max(self.total, 1)
        return (
            f"rank {', '.join(map(str, ranks))} on {len(self.carried)} matrices: "
            f"{self.trained:,} parameters train, {share:.2%} of the {self.total:,} that do not",
            *(
                f"{stack}.{_spans(numbers)}.{rest} {list(shape)}"
                for (stack, rest, shape), numbers in alike.items()
            ),
        )


def adapt(model: Model, config: LoraConfig, seed: int) -> Report:
    """Puts adapters beside the chosen matrices of ``model``, in place, and freezes all else.

    The function stays what it was until they train.

    Args:
        seed: of their first values.

    Raises:
        UserError: a word or pattern matches nothing, the rank is above a side of a matrix, or the
            model has adapters already.
    """
    if any(carried(model)):
        raise UserError("lora: the model has adapters already; merge them first")
    names = targets(model, config.targets)
    places = {name: (module, matrix) for name, module, matrix in _matrices(model)}
    for name in names:
        module, matrix = places[name]
        _check_rank(name, module.get_parameter(matrix), config.rank)
    model.frozen = frozenset(n for n, p in model.named_parameters() if not p.requires_grad)
    model.requires_grad_(False)
    generator = torch.Generator(model.embedding.weight.device).manual_seed((seed + SALT) % 2**63)
    for name in names:
        module, matrix = places[name]
        weight = module.get_parameter(matrix)
        adapter = _adapter(tuple(weight.shape), config).to(weight.device)
        adapter.init_weights(generator)
        setattr(module, matrix + MARK, adapter.train(module.training))
    return report(model)


def targets(model: Model, words: tuple[str, ...]) -> list[str]:
    """The matrices that words and patterns choose, by name, in the order of the model.

    Raises:
        ConfigError: one of them matches no matrix that takes an adapter; it says what there is.
    """
    known = {name: _word(name) for name, _, _ in _matrices(model)}
    chosen: set[str] = set()
    for word in words:
        if word in WORDS:
            found = {name for name, own in known.items() if own == word or (word == "all" and own)}
        else:
            found = {name for name in known if fnmatchcase(name, word)}
        if not found:
            raise ConfigError("lora.targets", word, *_what_there_is(model, word, known))
        chosen |= found
    return [name for name in known if name in chosen]


def carried(model: nn.Module) -> Iterator[Carried]:
    """The matrices that have adapters, in the order of the model."""
    for name, module, matrix in _matrices(model):
        adapter = module._modules.get(matrix + MARK)
        if isinstance(adapter, Adapter):
            yield Carried(name, tuple(module.get_parameter(matrix).shape), adapter)


def report(model: Model) -> Report:
    """What is adapted of a model, nothing included."""
    found = tuple(carried(model))
    own = sum(each.parameters for each in found)
    return Report(found, own, sum(weight.numel() for weight in model.parameters()) - own)


@torch.no_grad()
def merge(model: Model) -> Model:
    """Adds every adapter to its matrix, in float32 and in place, and takes it away; all parameters
    train again but those that did not before. Without adapters it does nothing."""
    found = [each for each in _matrices(model) if each[1]._modules.get(each[2] + MARK) is not None]
    for _, module, matrix in found:
        adapter = module.get_submodule(matrix + MARK)
        assert isinstance(adapter, Adapter)
        weight = module.get_parameter(matrix)
        weight.add_(adapter.delta().to(weight.dtype))
        setattr(module, matrix + MARK, None)
    if found:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name not in model.frozen)
    return model


def merged(model: Model) -> Model:
    """A copy with the adapters merged; the model itself where it has none."""
    return merge(copy.deepcopy(model)) if any(carried(model)) else model


def extract(model: Model) -> dict[str, Tensor]:
    """The adapters' tensors by name, ``MATRIX_lora.a`` and ``MATRIX_lora.b``."""
    return {
        f"{each.name}{MARK}.{part}": tensor.detach()
        for each in carried(model)
        for part, tensor in (("a", each.adapter.a), ("b", each.adapter.b))
    }


def _matrices(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Every matrix that an adapter can stand beside: its name, its module, its name in there."""
    for path, module in model.named_modules():
        if path == "head":
            continue  # the loss reads its weight itself
        for matrix in _of(module):
            yield f"{path}.{matrix}", module, matrix


def _parts(name: str) -> tuple[str, int, str]:
    """``decoder.blocks``, 3, and what is in there: all adapted matrices are parts of blocks."""
    stack, _, inner = name.partition(".blocks.")
    number, _, rest = inner.partition(".")
    return f"{stack}.blocks", int(number), rest


def _spans(numbers: list[int]) -> str:
    """``0-3,5``, of ascending numbers."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and spans[-1][-1] == number - 1:
            spans[-1][1:] = [number]
        else:
            spans.append([number])
    return ",".join("-".join(map(str, span)) for span in spans)


@singledispatch
def _of(module: nn.Module) -> list[str]:
    """The matrices of one module."""
    return []


@_of.register
def _(module: Linear | LinearExperts) -> list[str]:
    return ["weight"]


@_of.register
def _(module: FeedForward | Experts) -> list[str]:
    gate = [] if module.w_gate is None else ["w_gate"]
    return ["w_in", *gate, "w_out"]


@_of.register
def _(module: SoftmaxRouter) -> list[str]:
    return ["weight"] if module.form.linear else []


@_of.register
def _(module: SigmoidTopK) -> list[str]:
    return ["weight"]


def _word(name: str) -> str:
    """What a matrix belongs to; nothing for the gate of shared experts."""
    *path, last = name.split(".")
    for part in ("experts", "router"):
        if part in path:
            return part
    if "self_attention" in path or "cross_attention" in path:
        return "attention"
    return "ffn" if last.startswith("w_") else ""


def _what_there_is(model: Model, word: str, known: dict[str, str]) -> tuple[str, str]:
    """What is allowed, and the likely fix."""
    counts = Counter(own for own in known.values() if own)
    there = ", ".join(f"{own} ({count} matrices)" for own, count in counts.items())
    frozen = [name for name, _ in model.named_parameters() if fnmatchcase(name, word)]
    why = f"{frozen[0]} takes no adapter" if frozen else "no matrix of this model matches it"
    allowed = f"one of {there}, all, or a pattern over names such as {next(iter(known))}"
    return allowed, why


def _check_rank(name: str, weight: Tensor, rank: int) -> None:
    most = min(weight.shape[-2:])
    require(
        rank <= most,
        "lora.rank",
        rank,
        f"at most {most}, the smaller side of {name} {list(weight.shape)}",
        "a product of more columns says nothing more; take a smaller rank or other lora.targets",
    )


def _adapter(shape: tuple[int, ...], config: LoraConfig) -> Adapter:
    scale, rank = config.alpha / config.rank, config.rank
    if len(shape) == 3:
        experts, inputs, outputs = shape
        return StackedAdapter(experts, inputs, outputs, rank, scale=scale, dropout=config.dropout)
    outputs, inputs = shape
    return MatrixAdapter(inputs, outputs, rank, scale=scale, dropout=config.dropout)
