"""Which expert reads what: the kinds of characters, tokens and contexts each expert serves.

Axes: B batch, S sequence, K choices, N assignments, C classes of characters, E experts.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Bool, Int64

from turnout.data.batch import Batch, Stream
from turnout.data.tokenizers import Tokenizer
from turnout.models.base import Model
from turnout.models.modes import evaluating
from turnout.moe.stats import LayerDecision
from turnout.probe.characters import BYTES, CLASSES, CharacterClass, classify, visible
from turnout.probe.examples import Example, Rows
from turnout.probe.information import SHUFFLES, Information, entropy, lift

SUFFIX = 4
CONTEXT = 12
MIN_COUNT = 16
MOST = 12
EXAMPLES = 3

DEFINITIONS: Final[Mapping[str, str]] = {
    "assignment": "one token served by one expert of one layer (dropped choices are not counted); "
    "the token is the one that the layer's stack reads at that place",
    "load": "the expert's share of the layer's assignments",
    "lift": "share among the expert's assignments over share among all assignments of the layer",
    "tokens": f"tokens of largest lift, ties by count, of those it served {MIN_COUNT} times",
    "contexts": f"the same for {SUFFIX} tokens in a row, the served one last; the example is the "
    f"first occurrence with up to {CONTEXT} tokens before it",
    "examples": f"the first {EXAMPLES} of each of the two, in the middle one of the places where "
    "they stood; pieces of kind `this` are the token itself, `served` went to the same expert",
    "class_information": "what the class of a token tells of its expert: mutual information in "
    "bits over the layer's assignments; chance: the same after shuffling the experts over the "
    f"assignments, mean of {SHUFFLES} shuffles",
    "token_information": "the same for the token itself",
    "expert_entropy": "entropy of the load in bits: what neither can exceed",
}


@dataclass(frozen=True)
class Typical:
    """Something that an expert serves more often than others do; ``ids`` are exact.

    ``text`` and ``example`` are printable (see ``characters.visible``); ``special``: the first id
    stands for no text.
    """

    text: str
    ids: tuple[int, ...]
    count: int
    lift: float
    example: str = ""
    special: bool = False


@dataclass(frozen=True)
class ExpertReading:
    """One expert: assignments in all and by class, and what is most typical of it."""

    expert: int
    assigned: int
    load: float
    by_class: tuple[int, ...]
    tokens: tuple[Typical, ...]
    contexts: tuple[Typical, ...]
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True)
class LayerReading:
    """One sparse layer; ``unserved`` counts tokens without any expert by class.

    The informations and ``expert_entropy``: see ``DEFINITIONS``.
    """

    name: str
    stack: str
    experts: tuple[ExpertReading, ...]
    unserved: tuple[int, ...]
    class_information: Information
    token_information: Information
    expert_entropy: float

    def counts(self) -> Int64[np.ndarray, "E C"]:
        """Assignments by expert and class of characters."""
        return np.array([expert.by_class for expert in self.experts], dtype=np.int64)


@dataclass(frozen=True)
class Reading:
    """All sparse layers in order; empty for a dense model. ``tokens`` were read, by all stacks."""

    classes: tuple[CharacterClass, ...]
    tokens: int
    layers: tuple[LayerReading, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON: plain numbers, strings, lists, and the definitions of them."""
        return {"definitions": dict(DEFINITIONS), **asdict(self)}


@dataclass(frozen=True)
class LayerRecord:
    """What one layer did with the rows its stack read; ``expert`` is -1 where nothing was kept."""

    name: str
    stack: str
    num_experts: int
    ids: Int64[np.ndarray, "B S"]
    mask: Bool[np.ndarray, "B S"]
    expert: Int64[np.ndarray, "B S K"]


def read(model: Model, batches: Iterable[Batch], tokenizer: Tokenizer = BYTES) -> Reading:
    """Run ``model`` over ``batches``, of equal lengths, in evaluation mode, and count.

    The mode of the model is restored. Nothing is run for a dense model.
    """
    return summarise(records(model, batches), tokenizer)


@torch.no_grad()
def records(model: Model, batches: Iterable[Batch]) -> tuple[LayerRecord, ...]:
    """The decisions of every sparse layer over all batches, in the order of the layers."""
    experts = {name: layer.experts.num_experts for name, layer in model.sparse_layers().items()}
    with evaluating(model):
        parts = [_parts(model, batch, experts) for batch in batches] if experts else []
    return tuple(map(_joined, zip(*parts, strict=True)))


def summarise(layers: Iterable[LayerRecord], tokenizer: Tokenizer = BYTES) -> Reading:
    """Count what each expert of each layer served."""
    given = tuple(layers)
    stacks = {layer.stack: int(layer.mask.sum()) for layer in given}
    return Reading(
        CLASSES, sum(stacks.values()), tuple(_layer(layer, tokenizer) for layer in given)
    )


def _parts(model: Model, batch: Batch, experts: Mapping[str, int]) -> list[LayerRecord]:
    output = model(batch, routing=True)
    decisions = zip(output.layers, output.routing.layers, strict=True)
    return [
        _part(layer.name, layer.stack, experts[layer.name], batch, decision)
        for layer, decision in decisions
    ]


def _part(
    name: str, stack: str, num_experts: int, batch: Batch, decision: LayerDecision
) -> LayerRecord:
    encoder = batch.decoder if batch.encoder is None else batch.encoder
    read_by: Stream = encoder if stack == "encoder" else batch.decoder
    return LayerRecord(
        name,
        stack,
        num_experts,
        read_by.ids.cpu().numpy(),
        read_by.mask.cpu().numpy(),
        decision.expert.cpu().numpy(),
    )


def _joined(parts: tuple[LayerRecord, ...]) -> LayerRecord:
    return replace(
        parts[0],
        ids=np.concatenate([part.ids for part in parts]),
        mask=np.concatenate([part.mask for part in parts]),
        expert=np.concatenate([part.expert for part in parts]),
    )


def _layer(record: LayerRecord, tokenizer: Tokenizer) -> LayerReading:
    kept = (record.expert >= 0) & record.mask[..., None]
    row, place, choice = np.nonzero(kept)
    expert = record.expert[row, place, choice]
    classes = classify(record.ids, record.mask, tokenizer)
    by_class = _table(expert, classes[row, place], (record.num_experts, len(CLASSES)))
    read_ids, token = np.unique(record.ids[row, place], return_inverse=True)
    by_token = _table(expert, token, (record.num_experts, len(read_ids)))
    unserved = classes[record.mask & ~kept.any(-1)]
    served = _Served(row, place, expert)
    tokens = _typical(record, served, 1, tokenizer)
    contexts = _typical(record, served, SUFFIX, tokenizer)
    rows = Rows(record.ids, record.mask, record.expert, tokenizer)
    assigned = by_class.sum(1)
    return LayerReading(
        record.name,
        record.stack,
        tuple(
            ExpertReading(
                expert=index,
                assigned=int(assigned[index]),
                load=float(assigned[index] / max(int(assigned.sum()), 1)),
                by_class=tuple(by_class[index].tolist()),
                tokens=tokens[index],
                contexts=contexts[index],
                examples=_examples(rows, index, (*tokens[index][:EXAMPLES], *contexts[index])),
            )
            for index in range(record.num_experts)
        ),
        unserved=tuple(np.bincount(unserved, minlength=len(CLASSES)).tolist()),
        class_information=Information.of(by_class),
        token_information=Information.of(by_token),
        expert_entropy=entropy(assigned),
    )


def _table(
    first: Int64[np.ndarray, " N"], second: Int64[np.ndarray, " N"], shape: tuple[int, int]
) -> Int64[np.ndarray, "A B"]:
    table = np.zeros(shape, dtype=np.int64)
    np.add.at(table, (first, second), 1)
    return table


@dataclass(frozen=True)
class _Served:
    """Where the tokens of all assignments stand, and the expert of each."""

    row: Int64[np.ndarray, " N"]
    place: Int64[np.ndarray, " N"]
    expert: Int64[np.ndarray, " N"]


def _typical(
    record: LayerRecord, served: _Served, length: int, tokenizer: Tokenizer
) -> list[tuple[Typical, ...]]:
    """For every expert its most typical runs of ``length`` tokens, the served one last."""
    row, place, expert = served.row, served.place, served.expert
    enough = place >= length - 1
    row, place, expert = row[enough], place[enough], expert[enough]
    span = place[:, None] + np.arange(1 - length, 1)
    whole = record.mask[row[:, None], span].all(1)
    row, place, expert, span = row[whole], place[whole], expert[whole], span[whole]
    runs, number = np.unique(record.ids[row[:, None], span], axis=0, return_inverse=True)
    counts = _table(expert, number.reshape(-1), (record.num_experts, len(runs)))
    lifts = lift(counts)

    def example(index: int, run: int) -> str:
        at = int(np.flatnonzero((expert == index) & (number.reshape(-1) == run))[0])
        before = slice(max(int(place[at]) - CONTEXT, 0), int(place[at]) + 1)
        real = record.mask[row[at], before]
        return visible(tuple(record.ids[row[at], before][real].tolist()), tokenizer)

    def most(index: int) -> Iterator[Typical]:
        often = np.flatnonzero(counts[index] >= MIN_COUNT)
        best = np.lexsort((-counts[index, often], -lifts[index, often]))[:MOST]
        for run in often[best].tolist():
            ids = tuple(runs[run].tolist())
            text = example(index, run) if length > 1 else ""
            count, times = int(counts[index, run]), float(lifts[index, run])
            special = not tokenizer.is_text(ids[0])
            yield Typical(visible(ids, tokenizer), ids, count, times, text, special)

    return [tuple(most(index)) for index in range(record.num_experts)]


def _examples(rows: Rows, expert: int, typical: Sequence[Typical]) -> tuple[Example, ...]:
    """One place for each of the first ``2 * EXAMPLES``; no place twice."""
    found: dict[tuple[int, int], Example] = {}
    served = (rows.expert == expert).any(-1) & rows.mask
    for each in typical[: 2 * EXAMPLES]:
        size = len(each.ids)
        here = served[:, size - 1 :].copy()
        for offset, index in enumerate(each.ids):
            end = rows.ids.shape[1] - size + 1 + offset
            here &= (rows.ids[:, offset:end] == index) & rows.mask[:, offset:end]
        row, first = np.nonzero(here)
        middle = len(row) // 2
        at = int(row[middle]), int(first[middle]) + size - 1
        found.setdefault(at, Example(each.text, each.lift, rows.around(expert, *at)))
    return tuple(found.values())
