"""Times the backends of the grouped product against the dense product of equal arithmetic.

    OMP_NUM_THREADS=2 python benchmarks/products.py > docs/results/products.md

Forward and backward of ``[N, D] x [E, D, F]``. The loads of the experts are drawn anew for every
call, as routing changes them with every batch: with the same loads again and again the kernels
that oneDNN compiles for each number of rows would come from its cache, as they do not in training.

Every backend and the dense product, by the faster library too, in turn within each repeat, so that
a busy machine slows them alike; each is called twice before it is timed, since the others have been
at the cache. Medians of the ratios to the dense product, with the quartiles. Outputs are compared
before anything is timed.
"""

import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from turnout.moe.product_backends import BACKENDS
from turnout.moe.products import ProductShape, choose, grouped_product, usable
from turnout.nn.linear import linear

REPEATS = 9
WARM = 2
SHAPES = [
    (experts, tokens, width, 4 * width)
    for width in (128, 512)
    for experts in (8, 32)
    for tokens in (32, 128, 512)
]


def draw(tokens: int, experts: int, generator: torch.Generator) -> Tensor:
    """The ends of uneven loads: shares of a softmax, the largest about three times the mean."""
    shares = torch.softmax(0.5 * torch.randn(experts, generator=generator), dim=0)
    chosen = torch.multinomial(shares, tokens, replacement=True, generator=generator)
    return torch.bincount(chosen, minlength=experts).cumsum(0).to(torch.int32)


def seconds(work: Callable[[], Tensor]) -> float:
    """Of the last of some calls, forward and backward."""
    for _ in range(WARM):
        work().backward()
    started = time.perf_counter()
    work().backward()
    return time.perf_counter() - started


def measure(experts: int, tokens: int, d_in: int, d_out: int, dtype: torch.dtype) -> str:
    """One row of the table."""
    generator = torch.Generator().manual_seed(0)
    total = experts * tokens
    rows = torch.randn(total, d_in, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(experts, d_in, d_out, generator=generator).to(dtype).requires_grad_()
    dense = weight.detach()[0].t().clone().requires_grad_()
    shape = ProductShape(total, experts, d_in, d_out, dtype, "cpu")
    ways: dict[str, Callable[[], Tensor]] = {"dense": lambda: linear(rows, dense).sum()}
    offsets = draw(total, experts, generator)
    expected = grouped_product(rows, weight, offsets, "slices").detach()
    for name in BACKENDS:
        if usable(name, shape):
            found = grouped_product(rows, weight, offsets, name).detach()
            torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2 * d_in**0.5)
            ways[name] = lambda name=name: grouped_product(
                rows, weight, draw(total, experts, generator), name
            ).sum()
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, way in ways.items():
            times[name].append(seconds(way))
    cells = []
    for name in BACKENDS:
        if name not in ways:
            cells.append("-")
            continue
        ratios = [t / d for t, d in zip(times[name], times["dense"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        cells.append(f"{middle:.2f} ({low:.2f} to {high:.2f})")
    kind = str(dtype).removeprefix("torch.")
    dense_ms = 1e3 * statistics.median(times["dense"])
    chosen = choose(shape).backend
    return (
        f"| {kind} | {experts} | {tokens} | {d_in} x {d_out} | {dense_ms:.1f} | "
        f"{' | '.join(cells)} | {chosen} |"
    )


def main() -> None:
    """Prints the table as Markdown."""
    print("# The grouped product's backends\n")
    print(
        "Time over the dense product of equal arithmetic, forward and backward: median of "
        f"{REPEATS} interleaved repeats, quartiles in brackets.\n\nCommand: `OMP_NUM_THREADS="
        f"{torch.get_num_threads()} python benchmarks/products.py`; torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, {platform.machine()}, "
        f"{torch.backends.cpu.get_cpu_capability()}.\n"
    )
    print("| dtype | E | tokens an expert | D x F | dense, ms |", " | ".join(BACKENDS), "| auto |")
    print("|" + "---|" * (6 + len(BACKENDS)))
    for dtype in (torch.float32, torch.bfloat16):
        for shape in SHAPES:
            print(measure(*shape, dtype), flush=True)


if __name__ == "__main__":
    main()
