"""Beam search: the most probable sequences, several unfinished ones kept a prompt.

Axes: B prompts, K beams a prompt, V vocabulary.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from turnout.config.generation import GenerateOptions
from turnout.generate.prompts import first_batch
from turnout.generate.step import Ends, next_batch, next_logits
from turnout.models.base import Model


@dataclass(frozen=True)
class Beam:
    """New tokens with the sum of their log-probabilities; ``parent`` is the beam they continue."""

    tokens: tuple[int, ...]
    score: float
    parent: int


@dataclass(frozen=True)
class Finished:
    """A sequence that has ended, without its stop token; ``rank`` is its score by length."""

    tokens: tuple[int, ...]
    rank: float


@dataclass(frozen=True)
class Search:
    """The search for one prompt: its unfinished beams, best first, and the best finished ones."""

    beams: tuple[Beam, ...] = (Beam((), 0.0, 0),)
    finished: tuple[Finished, ...] = ()
    over: bool = False

    @property
    def best(self) -> list[int]:
        """The tokens of the best sequence that has ended."""
        return list(max(self.finished, key=lambda each: each.rank).tokens)


def beam_search(
    model: Model, prompts: list[list[int]], options: GenerateOptions, ends: Ends
) -> list[list[int]]:
    """The best sequence of new tokens of each prompt, as ``GenerateOptions`` ranks them.

    Each step continues every beam by every token and takes the ``num_beams`` best that go on;
    what ends counts where it is among the ``num_beams`` best of all. The rule is that of
    transformers; the repetition penalty acts on logits, before the softmax. A prompt is read once
    and its beams share what it says.
    """
    if not prompts:
        return []
    device = next(model.parameters()).device
    beams = options.num_beams
    searches = [Search() for _ in prompts]
    batch = first_batch(model.config, prompts, options, device)
    length = batch.decoder.ids.shape[1] + options.max_new_tokens
    cache = model.empty_cache(len(prompts), length)
    for position in range(options.max_new_tokens):
        logits, cache = next_logits(model, batch, cache, options, position)
        searches = [
            search if search.over else advanced(search, candidates, options, ends)
            for search, candidates in zip(
                searches, _candidates(logits, searches, options), strict=True
            )
        ]
        if all(search.over for search in searches):
            break
        width = logits.shape[0] // len(prompts)
        rows = torch.tensor(_rows(searches, width, beams), device=device)
        cache = cache.reordered(rows) if width == beams else cache.rows(rows)
        token = [beam.tokens[-1] for search in searches for beam in _filled(search, beams)]
        live = [not search.over for search in searches for _ in range(beams)]
        written, going = torch.tensor(token, device=device), torch.tensor(live, device=device)
        batch = next_batch(batch, written, going, rows)
    return [search.best for search in searches]


def advanced(
    search: Search, candidates: list[Beam], options: GenerateOptions, ends: Ends
) -> Search:
    """The search with one more token, of ``candidates`` from the best down."""
    running: list[Beam] = []
    finished = list(search.finished)
    for place, beam in enumerate(candidates):
        length, stopped = len(beam.tokens), beam.tokens[-1] in options.stop_ids
        ended = stopped or length == options.max_new_tokens or ends(list(beam.tokens))
        if ended and place < options.num_beams:
            rank = beam.score / length**options.length_penalty
            finished.append(Finished(beam.tokens[: length - stopped], rank))
        if not ended:
            running.append(beam)
    finished = sorted(finished, key=lambda each: -each.rank)[: options.num_beams]
    kept = tuple(running[: options.num_beams])
    return Search(kept or search.beams, tuple(finished), _over(kept, finished, options))


def _over(running: tuple[Beam, ...], finished: list[Finished], options: GenerateOptions) -> bool:
    """Whether the search ends, by ``options.early_stopping``."""
    if not running:
        return True
    if len(finished) < options.num_beams:
        return False
    if options.early_stopping == "first":
        return True
    length = len(running[0].tokens)
    if options.early_stopping == "never" and options.length_penalty > 0:
        length = options.max_new_tokens  # where the same sum ranks highest
    return bool(running[0].score / length**options.length_penalty <= finished[-1].rank)


def _candidates(
    logits: Float[Tensor, "N V"], searches: list[Search], options: GenerateOptions
) -> list[list[Beam]]:
    """The best continuations of each search, enough that ``num_beams`` of them go on."""
    prompts, vocabulary = len(searches), logits.shape[1]
    width = logits.shape[0] // prompts
    scores = torch.full((prompts, width), -torch.inf)
    for row, search in enumerate(searches):
        for place, beam in enumerate(search.beams):
            scores[row, place] = beam.score
    total = logits.log_softmax(-1).view(prompts, width, -1) + scores.to(logits.device).unsqueeze(2)
    wanted = max(2, 1 + len(options.stop_ids)) * options.num_beams
    best = total.flatten(1).topk(min(wanted, width * vocabulary))
    return [
        [
            Beam((*search.beams[index // vocabulary].tokens, index % vocabulary), score, parent)
            for score, index in zip(values, indices, strict=True)
            if score > -torch.inf and (parent := index // vocabulary) >= 0
        ]
        for search, values, indices in zip(
            searches, best.values.tolist(), best.indices.tolist(), strict=True
        )
    ]


def _filled(search: Search, beams: int) -> tuple[Beam, ...]:
    """``beams`` beams; where there are fewer the first stands for those without a score."""
    return search.beams + search.beams[:1] * (beams - len(search.beams))


def _rows(searches: list[Search], width: int, beams: int) -> list[int]:
    """The row of the last pass that each beam continues; prompts had ``width`` rows each."""
    return [
        number * width + (0 if search.over else beam.parent)
        for number, search in enumerate(searches)
        for beam in _filled(search, beams)
    ]
