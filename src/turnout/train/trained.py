"""Which weights train, by name: words for the parts of a model, or patterns.

Axes: E experts.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from turnout.config.errors import UserError, nearest
from turnout.data.batch import Batch
from turnout.models.base import Model
from turnout.models.modes import evaluating
from turnout.train.optim import role_of
from turnout.train.ranks import Ranks

# Words, and whether a parameter of that name and of that role is meant.
WORDS = ("all", "non-experts", "router", "experts", "attention", "ffn")
TOP = re.compile(r"experts:top(\d+(?:\.\d+)?)%")
SOME = re.compile(r"(?P<pattern>.+)\[(?P<experts>\d+(?:,\d+)*)\]")


@dataclass(frozen=True)
class Trained:
    """What a run trains.

    Attributes:
        names: parameters that change.
        still: of stacked experts of which some alone change, those that do not, by parameter.
        parts: of every part of the model its name, its weights, and those that train.
    """

    names: frozenset[str]
    still: Mapping[str, tuple[int, ...]]
    parts: tuple[tuple[str, int, int], ...]

    @staticmethod
    def of(model: Model, still: Mapping[str, tuple[int, ...]] | None = None) -> "Trained":
        """What trains of a whole model as it is, but for the experts that are held ``still``."""
        still = still or {}
        names = (name for name, weight in model.named_parameters() if weight.requires_grad)
        return Trained(frozenset(names), still, tuple(_parts(model, still)))


def _parts(model: Model, still: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, int, int]]:
    found: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        size = parameter.numel()
        idle = len(still.get(name, ())) * (size // max(len(parameter), 1))
        total = found.setdefault(_part(name), [0, 0])
        total[0] += size
        total[1] += size - idle if parameter.requires_grad else 0
    return ((part, size, trains) for part, (size, trains) in found.items())


def choose_trained(model: Model, words: Sequence[str]) -> Trained:
    """Lets the parameters train that ``words`` name, and no others.

    A word is one of ``WORDS``, or a pattern over the names of ``model.named_parameters()`` with
    ``*`` and ``?``; behind a pattern of stacked experts ``[0,3]`` takes those experts alone.

    Raises:
        UserError: a word or pattern that names nothing, or an expert that is not there.
    """
    parameters = dict(model.named_parameters())
    names: set[str] = set()
    some: dict[str, set[int]] = {}
    for word in words:
        if TOP.fullmatch(word):
            raise UserError(
                f"train.trained = {word!r}: is chosen when a run begins; name the experts of this "
                "one, such as '*.experts.*[0,5]'"
            )
        pattern, experts = _split(word)
        found = [name for name in parameters if _means(pattern, name)]
        if not found:
            raise UserError(_nothing(word, parameters))
        for name in found:
            if experts is None:
                names.add(name)
            else:
                _check_experts(word, name, parameters[name], experts)
                some.setdefault(name, set()).update(experts)
    still = {
        name: tuple(sorted(set(range(len(parameters[name]))) - chosen))
        for name, chosen in some.items()
        if name not in names
    }
    names |= some.keys()
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in names)
    return Trained.of(model, {name: idle for name, idle in still.items() if idle})


def wants_loads(words: Iterable[str]) -> bool:
    """Whether a word asks for the experts that are used most."""
    return any(TOP.fullmatch(word) for word in words)


def resolve_top(
    model: Model, words: Sequence[str], loads: Mapping[str, Sequence[int]]
) -> tuple[str, ...]:
    """``words`` with ``experts:top25%`` replaced by the experts that it means.

    Of every sparse layer the share, rounded up, with the highest loads; ties go to the lower.

    Args:
        loads: assignments of each expert on the text to be trained on, by sparse layer.

    Raises:
        UserError: a share that is not above 0 and up to 100, or no sparse layer.
    """
    resolved: list[str] = []
    for word in words:
        match = TOP.fullmatch(word)
        if match is None:
            resolved.append(word)
            continue
        share = float(match.group(1))
        if not 0 < share <= 100:
            raise UserError(f"train.trained = {word!r}: must be above 0 and at most 100 per cent")
        if not loads:
            raise UserError(f"train.trained = {word!r}: the model has no sparse layer")
        resolved += [
            f"{prefix}.experts.*[{','.join(map(str, _most(loads[layer], share)))}]"
            for layer, prefix in expert_prefixes(model).items()
        ]
    return tuple(resolved)


def expert_prefixes(model: Model) -> dict[str, str]:
    """The path of every sparse layer's module, by the layer's name."""
    paths = {module: path for path, module in model.named_modules()}
    return {name: paths[layer] for name, layer in model.sparse_layers().items()}


@torch.no_grad()
def measured_loads(model: Model, batches: Sequence[Batch]) -> dict[str, list[int]]:
    """Assignments of each expert in evaluation mode, by sparse layer."""
    found: dict[str, Tensor] = {}
    with evaluating(model):
        for batch in batches:
            for stats in model(batch).layers:
                counts = stats.router.assigned.sum(0)
                found[stats.name] = found.get(stats.name, torch.zeros_like(counts)) + counts
    return {name: [int(count) for count in counts] for name, counts in found.items()}


def hold_still(ranks: Ranks, model: Model, still: Mapping[str, Sequence[int]]) -> None:
    """Takes the gradient of the experts that do not train away, once it is complete."""
    weights = ranks.weights(model)
    for name, idle in still.items():
        grad = weights[name].grad
        block = None if grad is None else ranks.block(name, tuple(grad.shape))
        if grad is not None and block is not None:
            first, end = block.offset[0], block.ends[0]
            here = [expert - first for expert in idle if first <= expert < end]
            grad.index_fill_(0, torch.tensor(here, dtype=torch.long, device=grad.device), 0.0)


def _most(loads: Sequence[int], share: float) -> list[int]:
    count = math.ceil(len(loads) * share / 100)
    order = sorted(range(len(loads)), key=lambda expert: (-loads[expert], expert))
    return sorted(order[:count])


def _split(word: str) -> tuple[str, tuple[int, ...] | None]:
    match = SOME.fullmatch(word)
    if match is None:
        return word, None
    return match["pattern"], tuple(int(expert) for expert in match["experts"].split(","))


def _means(word: str, name: str) -> bool:
    role = role_of(name)
    parts = name.split(".")
    dense = role == "other" and "feed_forward" in parts and "norm" not in parts
    meanings = {
        "all": True,
        "non-experts": role != "experts",
        "router": role == "router",
        "experts": role == "experts",
        "attention": role == "other" and any("attention" in part for part in parts),
        "ffn": dense or (role == "experts" and "feed_forward" in parts),
    }
    return meanings[word] if word in meanings else fnmatchcase(name, word)


def _part(name: str) -> str:
    """What a table calls a parameter's part of the model."""
    role, parts = role_of(name), name.split(".")
    if role == "router":
        return "routers"
    if role == "experts":
        return "experts"
    if "norm" in parts:
        return "norms"
    if any("attention" in part for part in parts):
        return "attention"
    return "dense feed-forward" if "feed_forward" in parts else "embedding and head"


def _nothing(word: str, parameters: Mapping[str, object]) -> str:
    if word in WORDS:
        return f"train.trained = {word!r}: the model has none"
    hint = nearest(word, (*WORDS, *parameters))
    words = ", ".join((*WORDS, "experts:top25%"))
    return f"train.trained = {word!r}: must be one of {words}, or a pattern of names; {hint}"


def _check_experts(word: str, name: str, parameter: Tensor, experts: Sequence[int]) -> None:
    if role_of(name) != "experts":
        raise UserError(f"train.trained = {word!r}: {name} is not of stacked experts")
    if max(experts) >= len(parameter):
        raise UserError(
            f"train.trained = {word!r}: must name experts below {len(parameter)}, those of {name}"
        )
