"""Times the backends of the grouped product against the dense product of equal arithmetic.

    OMP_NUM_THREADS=2 python benchmarks/products.py > docs/results/products.md

Forward and backward of ``[N, D] x [E, D, F]``, every backend and the dense product in turn within
each repeat, so that a busy machine slows them alike; medians of the ratios to the dense product,
with the quartiles. Outputs are compared before anything is timed.
"""

import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from turnout.moe.products import BACKENDS, ProductShape, choose, grouped_product, usable

REPEATS = 9
SHAPES = [
    (experts, tokens, width, 4 * width)
    for width in (128, 512)
    for experts in (8, 32)
    for tokens in (32, 128, 512)
]


def seconds(work: Callable[[], Tensor]) -> float:
    started = time.perf_counter()
    work().backward()
    return time.perf_counter() - started


def measure(experts: int, tokens: int, d_in: int, d_out: int, dtype: torch.dtype) -> str:
    """One row of the table; loads are uneven, as routing makes them: a ramp from 1/2 to 3/2."""
    generator = torch.Generator().manual_seed(0)
    ramp = [int(tokens * (0.5 + e / max(experts - 1, 1))) for e in range(experts)]
    rows = torch.randn(sum(ramp), d_in, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(experts, d_in, d_out, generator=generator).to(dtype).requires_grad_()
    dense = weight.detach()[0].clone().requires_grad_()
    offsets = torch.tensor(ramp).cumsum(0).to(torch.int32)
    shape = ProductShape(len(rows), experts, d_in, d_out, dtype, "cpu")
    ways: dict[str, Callable[[], Tensor]] = {"dense": lambda: (rows @ dense).sum()}
    expected = grouped_product(rows, weight, offsets, "slices").detach()
    for name in BACKENDS:
        if usable(name, shape):
            found = grouped_product(rows, weight, offsets, name).detach()
            torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2 * d_in**0.5)
            ways[name] = lambda name=name: grouped_product(rows, weight, offsets, name).sum()
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS + 2):
        for name, way in ways.items():
            times[name].append(seconds(way))
    ratios = {
        name: [t / d for t, d in zip(times[name][2:], times["dense"][2:], strict=True)]
        for name in BACKENDS
        if name in ways
    }
    cells = []
    for values in ratios.values():
        low, middle, high = statistics.quantiles(values, n=4)
        cells.append(f"{middle:.2f} ({low:.2f} to {high:.2f})")
    kind = str(dtype).removeprefix("torch.")
    dense_ms = 1e3 * statistics.median(times["dense"][2:])
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
