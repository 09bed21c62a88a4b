"""Times a sparse layer against the dense layer of equal arithmetic, forward and backward.

    OMP_NUM_THREADS=2 python benchmarks/layer.py > docs/results/layer.md

A Switch layer of width 512 and hidden width 2,048, top-1 and dropless, and the dense network of the
same width on as many tokens. Weights are float32, cast to the dtype of the tokens in every step, in
both; gradients are freed before each step, as an optimiser does. The router's weights are drawn
so that loads are uneven, and the largest over the mean stands in the table.

All ways in turn within each repeat, so that a busy machine slows them alike; each is called twice
before it is timed. "Experts" are the experts alone, on rows that are sorted already: what the layer
takes beyond that are router, sort and combine. Before anything is timed the layer's output is
compared with a loop over its experts. The process keeps the memory that it frees, as
``turnout train`` does (``--give-back`` leaves it to the system).
"""

import argparse
import os
import platform
from dataclasses import dataclass

import torch
from timing import Work, interleaved
from torch import Tensor, nn

from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.moe import MoEConfig
from turnout.config.routers import SwitchRouter
from turnout.moe.build import build_layer
from turnout.moe.context import RoutingContext
from turnout.moe.layer import MoELayer
from turnout.nn.feed_forward import FeedForward
from turnout.train.host_memory import keep_freed_memory

WIDTH, HIDDEN, ROW = 512, 2048, 256
WARM = 2


@dataclass(frozen=True)
class Case:
    """A row of the table."""

    experts: int
    tokens: int  # an expert
    dtype: torch.dtype


def sparse_layer(experts: int) -> MoELayer:
    """Drawn from torch's generator."""
    config = MoEConfig(experts, SwitchRouter(), train_capacity_factor=None, init_scale=1.0)
    layer = build_layer(config, d_model=WIDTH, feed_forward=FeedForwardConfig(HIDDEN))
    nn.init.normal_(layer.router.weight, std=0.05)
    return layer


def step(module: nn.Module, x: Tensor, y: Tensor, upstream: Tensor) -> None:
    """The backward pass of ``y``; gradients of the step before are gone."""
    for leaf in (*module.parameters(), x):
        leaf.grad = None
    y.backward(upstream)


def ways(case: Case) -> tuple[dict[str, Work], float]:
    """What is timed, and the largest load over the mean."""
    torch.manual_seed(0)
    layer, dense = sparse_layer(case.experts), FeedForward(WIDTH, FeedForwardConfig(HIDDEN))
    dense.init_weights()
    shape = (case.experts * case.tokens // ROW, ROW, WIDTH)
    x, upstream = (torch.randn(shape).to(case.dtype) for _ in range(2))
    context = RoutingContext.of(torch.ones(shape[:2], dtype=torch.bool))
    load = check(layer, x, context)
    with torch.no_grad():
        order = layer.router(x, context)[0].expert.argsort(stable=True)
    rows = x.flatten(0, 1)[order].requires_grad_()
    offsets = load.cumsum(0).to(torch.int32)
    x.requires_grad_()
    flat = upstream.flatten(0, 1)
    return {
        "layer": lambda: step(layer, x, layer(x, context)[0], upstream),
        "experts": lambda: step(layer.experts, rows, layer.experts(rows, offsets), flat),
        "dense": lambda: step(dense, x, dense(x), upstream),
    }, float(load.max() / load.double().mean())


@torch.no_grad()
def check(layer: MoELayer, x: Tensor, context: RoutingContext) -> Tensor:
    """The load of each expert; raises unless the layer computes what a loop does."""
    found, stats, _ = layer(x, context)
    assignment, _ = layer.router(x, context)
    expected, flat = torch.zeros_like(x.flatten(0, 1)), x.flatten(0, 1)
    for expert in range(layer.experts.num_experts):
        own = assignment.expert == expert
        hidden = torch.relu(flat[own] @ layer.experts.w_in[expert].to(x.dtype))
        out = hidden @ layer.experts.w_out[expert].to(x.dtype)
        expected[own] = (out * assignment.weight[own].unsqueeze(1)).to(x.dtype)
    bound = 1e-4 if x.dtype == torch.float32 else 3e-2
    torch.testing.assert_close(found.flatten(0, 1), expected, rtol=bound, atol=bound)
    return stats.kept.sum(0)


def measure(case: Case, repeats: int) -> str:
    """One row of the table."""
    work, uneven = ways(case)
    times = interleaved(work, repeats, WARM)
    beyond = 1 - 1 / times.ratio("layer", "experts").median
    return (
        f"| {str(case.dtype).removeprefix('torch.')} | {case.experts} | {case.tokens} | "
        f"{uneven:.2f} | {1e3 * times.spread('dense').median:.1f} | "
        f"{times.ratio('layer', 'dense')} | {times.ratio('experts', 'dense')} | {beyond:.0%} |"
    )


def main() -> None:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experts", type=int, nargs="+", default=[8, 32, 64])
    parser.add_argument("--tokens", type=int, nargs="+", default=[32, 128, 512])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "2")))
    parser.add_argument("--give-back", action="store_true", help="freed memory, to the system")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    kept = False if options.give_back else keep_freed_memory()
    print("# A sparse layer against the dense layer of equal arithmetic\n")
    print(
        f"Width {WIDTH}, hidden width {HIDDEN}, top-1, dropless; time of forward and backward over "
        f"that of the dense layer, median of {options.repeats} interleaved repeats, quartiles in "
        f"brackets; freed memory is {'kept' if kept else 'given back'}.\n\nCommand: "
        f"`OMP_NUM_THREADS={options.threads} python benchmarks/layer.py`; torch "
        f"{torch.__version__}, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}.\n"
    )
    print(
        "| dtype | E | tokens an expert | largest load | dense, ms | layer | experts alone | "
        "router, sort, combine |"
    )
    print("|" + "---|" * 8)
    for dtype in (torch.float32, torch.bfloat16):
        for tokens in options.tokens:
            for experts in options.experts:
                print(measure(Case(experts, tokens, dtype), options.repeats), flush=True)


if __name__ == "__main__":
    main()
