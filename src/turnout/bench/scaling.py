"""Forward and backward of a layer on the same tokens, with ever more experts.

The arithmetic is the same throughout; what grows are the weights, which must be read and whose
gradients must be written. The model beside the times is that of this traffic alone:
``time(E) = time(first) + (bytes(E) - bytes(first)) / bandwidth``, with the bandwidth measured in
between. Router and sort grow too, and are not in it.

Memory is what a step has alive at most beyond weights and gradients (``bench.memory``); it should
not grow with the experts, but for the copies of weights in bfloat16 that layers make.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import nn

from turnout.bench.layer import TIMES_WIDER, Case, Routed, against_loop, sparse_layer
from turnout.bench.machine import Rates
from turnout.bench.memory import beyond
from turnout.bench.options import BOTH, Options
from turnout.bench.suite import Cells, Contest, Suite
from turnout.bench.timing import Spread, Times, Work
from turnout.kernels.grouped import GROUPED


@final
@dataclass(frozen=True)
class ScalingSuite(Suite):
    """One contest for every dtype and number of tokens, with a way for each number of experts."""

    name: ClassVar[str] = "scaling"

    def contests(self, options: Options) -> Iterator[Contest]:
        for dtype in options.dtypes:
            for tokens in options.tokens:
                yield contest(options, getattr(torch, dtype), tokens)


def weight_bytes(experts: int, width: int, dtype: torch.dtype) -> int:
    """Bytes of experts' weights that a step reads and writes, both matrices of every expert.

    In float32 three passes of 4: read forward, read backward, gradient written. So it is in
    bfloat16 by kernels in C++, which round what they read; without them the weights are cast first,
    which reads 4 and writes 2; the products read 2 and 2; the gradient is written in 4.
    """
    elements = experts * 2 * width * TIMES_WIDER * width
    as_they_are = dtype == torch.float32 or GROUPED.prefers(dtype, torch.float32)
    return elements * (4 + 4 + 4 if as_they_are else (4 + 2) + 2 + 2 + 4)


def predicted(first: float, extra: int, bandwidth: float) -> float:
    """Seconds, from those with the fewest experts and the bytes more than there."""
    return first + extra / bandwidth


def contest(options: Options, dtype: torch.dtype, tokens: int) -> Contest:
    """A layer for each number of experts, compared with a loop over its experts.

    Raises:
        UnequalError: a layer and its loop differ.
    """
    ways: dict[str, Work] = {}
    sizes, memory, differences = {}, {}, {}
    for experts in options.experts:
        torch.manual_seed(0)
        case = Case(options.width, experts, max(tokens // experts, 1), 1, dtype, BOTH)
        layer = sparse_layer(case)
        x = torch.randn(1, tokens, options.width).to(dtype)
        routed, name = Routed.of(layer, x, case), f"{experts} experts"
        differences[name] = against_loop(layer, x, routed)
        ways[name] = _step(layer, x, routed)
        memory[name] = beyond(ways[name], layer.parameters())
        sizes[name] = weight_bytes(experts, options.width, dtype)
    return Contest(
        facts={"dtype": str(dtype).removeprefix("torch."), "tokens": tokens},
        dtype=dtype,
        ways=ways,
        bases=(next(iter(ways)),),
        differences=differences,
        flops=dict.fromkeys(ways, 3 * 4 * tokens * options.width**2 * TIMES_WIDER),
        cells=lambda times, rates: _cells(times, rates, sizes, memory),
    )


def _step(layer: nn.Module, x: torch.Tensor, routed: Routed) -> Work:
    """Forward and backward; the gradients are freed at the end, or all layers would hold theirs."""
    given = x.detach().requires_grad_()
    upstream = torch.randn_like(x)

    def work() -> None:
        layer(given, routed.context)[0].backward(upstream)
        for leaf in (*layer.parameters(), given):
            leaf.grad = None

    return work


def _cells(
    times: Times, rates: Rates, sizes: Mapping[str, int], memory: Mapping[str, int]
) -> Cells:
    """What the traffic of weights says, and the memory, with its spread beside the first way."""
    first = next(iter(sizes))
    start = Spread.of(times.seconds[first]).median
    cells: dict[str, dict[str, str | int | float]] = {}
    for way, size in sizes.items():
        model = predicted(start, size - sizes[first], rates.bandwidth)
        cells[way] = {
            "weights moved, MB": size / 1e6,
            "predicted, ms": 1e3 * model,
            "over predicted": Spread.of(times.seconds[way]).median / model,
            "activations, MB": memory[way] / 1e6,
            "of the first": memory[way] / memory[first],
        }
    return cells
