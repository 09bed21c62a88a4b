"""Tables for hash routing (Roller et al. 2021, 2106.04426), as plain functions.

A table holds the expert of each vocabulary id, or of each bucket of pairs of ids. All are made on
the host, once, and the same call gives the same table. Axes: V entries, D width, E experts.
"""

import heapq

import torch
from jaxtyping import Float, Int
from torch import Tensor

from turnout.moe.hashing import mix, shift_right

ITERATIONS = 50


def random(entries: int, num_experts: int, seed: int, layer: int = 0) -> Int[Tensor, " V"]:
    """Each entry's expert is drawn evenly from a hash of (entry, seed, layer)."""
    return torch.remainder(mix(torch.arange(entries), seed, layer), num_experts)


def bucket(
    ids: Int[Tensor, "*A"], previous: Int[Tensor, "*A"], buckets: int, seed: int
) -> Int[Tensor, "*A"]:
    """The bucket, 0 .. ``buckets`` - 1, of each id and the one before it (-1 where none is)."""
    return torch.remainder(mix(ids, previous, seed), buckets)


def balanced(counts: Int[Tensor, " V"], num_experts: int) -> Int[Tensor, " V"]:
    """Loads as even as greedy choice makes them: the commonest entry first, each to the expert
    with the lightest load so far; ties go to the lower entry and the lower expert.

    The heaviest load is never below the commonest entry's, nor below an even share. Entries that
    were never counted weigh nothing, and are dealt so that experts hold as many entries.
    """
    order = torch.argsort(counts, descending=True, stable=True)
    counted = [count for count in counts.index_select(0, order).tolist() if count > 0]
    experts = _dealt(counted, [0] * num_experts)
    held = [experts.count(expert) for expert in range(num_experts)]
    experts += _dealt([1] * (len(counts) - len(counted)), held)
    return torch.zeros_like(counts).scatter(0, order, torch.tensor(experts, dtype=counts.dtype))


def clustered(embeddings: Float[Tensor, "V D"], num_experts: int, seed: int) -> Int[Tensor, " V"]:
    """The k-means cluster of each entry: Lloyd's iterations from k-means++ (Arthur and
    Vassilvitskii 2007), whose draws are hashes of ``seed``.

    Ends when no entry moves, or after 50 iterations. With fewer different embeddings than experts
    some experts hold nothing.
    """
    points = embeddings.detach().float()
    centres = _spread_centres(points, num_experts, seed)
    cluster = _nearest(points, centres)
    for _ in range(ITERATIONS):
        members = torch.zeros(num_experts).scatter_add_(0, cluster, torch.ones(len(cluster)))
        sums = torch.zeros_like(centres).index_add_(0, cluster, points)
        mean = sums / members.clamp(min=1).unsqueeze(1)
        # A cluster that lost its last entry keeps its centre, and may win others back.
        centres = torch.where((members > 0).unsqueeze(1), mean, centres)
        moved = _nearest(points, centres)
        if torch.equal(moved, cluster):
            break
        cluster = moved
    return cluster


def dispersed(clusters: Int[Tensor, " V"], num_experts: int) -> Int[Tensor, " V"]:
    """Spreads each cluster's entries over the experts in turn, where the cluster before left off,
    so that experts also hold as many entries (to within one)."""
    order = torch.argsort(clusters, stable=True)
    dealt = torch.arange(len(clusters)) % num_experts
    return torch.zeros_like(clusters).scatter(0, order, dealt)


def _dealt(weights: list[int], loads: list[int]) -> list[int]:
    """The expert of each weight in turn: the one whose load is lightest by then."""
    heap = sorted((load, expert) for expert, load in enumerate(loads))
    experts = []
    for weight in weights:
        load, expert = heap[0]
        heapq.heapreplace(heap, (load + weight, expert))
        experts.append(expert)
    return experts


def _spread_centres(
    points: Float[Tensor, "V D"], num_experts: int, seed: int
) -> Float[Tensor, "E D"]:
    """k-means++: each further centre is a point drawn by its squared distance to the nearest."""
    draws = shift_right(mix(torch.arange(num_experts), seed), 11).double() * 2.0**-53
    nearest = torch.ones(len(points), dtype=torch.float64)
    centres = points[:0]
    for draw in draws:
        ends = nearest.cumsum(0)
        pick = torch.searchsorted(ends, draw * ends[-1:], right=True).clamp(max=len(points) - 1)
        centres = torch.cat([centres, points.index_select(0, pick)])
        away = (points - centres[-1]).square().sum(1).double()
        nearest = away if len(centres) == 1 else torch.minimum(nearest, away)
    return centres


def _nearest(points: Float[Tensor, "V D"], centres: Float[Tensor, "E D"]) -> Int[Tensor, " V"]:
    """The nearest centre of each point; ties go to the lowest."""
    return (centres.square().sum(1) - 2 * points @ centres.t()).argmin(1)
