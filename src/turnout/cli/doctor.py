"""``turnout doctor``: versions, threads, dtypes, and the product backend of each shape."""

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from turnout.cli.arguments import Parser

_PACKAGES = ("torch", "numpy", "safetensors", "jaxtyping", "rich")


def run(arguments: Sequence[str]) -> int:
    """Print versions, hardware and measured products."""
    parser = Parser("turnout doctor", "What this machine can do, and what Turnout will use.")
    parser.add_argument(
        "--rows", type=int, default=4096, metavar="N", help="rows of the measured products"
    )
    parser.add_argument(
        "--build",
        action="store_true",
        help="first build the kernels in C++, which `auto` takes from then on; seconds, once",
    )
    options = parser.parse(arguments)
    import turnout
    from turnout.kernels.grouped import GROUPED
    from turnout.kernels.operators import FEW_ROWS

    if options.build:
        GROUPED.prefer()
        FEW_ROWS.prefer()

    print(f"turnout {turnout.__version__}, Python {platform.python_version()}, {_platform()}")
    print(", ".join(f"{name} {version(name)}" for name in _PACKAGES))
    for line in (*_hardware(), "", *_products(options.rows)):
        print(line)
    return 0


def _platform() -> str:
    return f"{platform.system()} {platform.machine()}"


def _hardware() -> list[str]:
    import torch

    from turnout.train.precision import compute_dtype

    dtype, why = compute_dtype("auto", torch.device("cpu"))
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = ", ".join(torch.cuda.get_device_name(i) for i in range(count)) or "none"
    return [
        f"threads: {torch.get_num_threads()} (OMP_NUM_THREADS or train.threads changes them)",
        f"dtype auto: {str(dtype).removeprefix('torch.')}, since {why}",
        f"accelerators: {names}",
        f"kernels in C++: {_kernels()}",
    ]


def _kernels() -> str:
    from turnout.kernels.grouped import GROUPED
    from turnout.kernels.operators import FEW_ROWS

    if GROUPED.missing:
        return f"none; {GROUPED.missing}"
    if not (GROUPED.preferred and FEW_ROWS.preferred):
        return "not built; `turnout doctor --build` builds them, and `auto` takes them from then on"
    return "built"


def _products(rows: int) -> list[str]:
    """A line a shape: every backend's time, measured now, and what ``auto`` takes and why."""
    import torch

    from turnout.kernels.grouped import GROUPED
    from turnout.moe import products
    from turnout.moe.product_backends import BACKENDS

    lines = [
        "grouped product, forward and backward, milliseconds (measured now, best of 3, other loads "
        "of the experts each time):"
    ]
    generator = torch.Generator().manual_seed(0)  # one for all: no backend sees another's loads
    for experts, d_in, d_out in ((8, 128, 512), (64, 128, 512), (8, 512, 2048)):
        for dtype in (torch.float32, torch.bfloat16):
            shape = products.ProductShape(rows, experts, d_in, d_out, dtype, "cpu")
            usable = [name for name in BACKENDS if products.usable(name, shape)]
            if not GROUPED.preferred:  # timing them would build them
                usable = [name for name in usable if name != "native"]
            times = {name: _milliseconds(shape, name, generator) for name in usable}
            lines.append(_product_line(shape, times, products.choose(shape)))
    return lines


def _product_line(shape: Any, times: Mapping[Any, float], choice: Any) -> str:
    fastest = min(times, key=times.__getitem__)
    here = "" if fastest == choice.backend else f"; here and now {fastest} was faster"
    measured = ", ".join(f"{name} {time:.1f}" for name, time in times.items())
    return (
        f"  E={shape.num_experts} {shape.d_in}x{shape.d_out} "
        f"{str(shape.dtype).removeprefix('torch.')}, {shape.rows} rows: {measured}; auto takes "
        f"{choice.backend}: {choice.why}{here}"
    )


def _milliseconds(shape: Any, backend: Any, generator: Any) -> float:
    import time

    import torch

    from turnout.moe.products import grouped_product

    size = (shape.num_experts, shape.d_in, shape.d_out)
    rows = torch.randn(shape.rows, shape.d_in, generator=generator).to(shape.dtype)
    weight = torch.randn(size, generator=generator).to(shape.dtype)
    rows.requires_grad_()
    weight.requires_grad_()
    best = float("inf")
    for _ in range(4):  # the first warms up
        # Routing never repeats its loads, and kernels are compiled for each number of rows.
        shares = torch.softmax(0.5 * torch.randn(shape.num_experts, generator=generator), dim=0)
        offsets = (shares.cumsum(0) * shape.rows).clamp(max=shape.rows).to(torch.int32)
        started = time.perf_counter()
        out = grouped_product(rows, weight, offsets, backend)
        torch.autograd.grad(out, (rows, weight), torch.ones_like(out))
        best = min(best, time.perf_counter() - started)
    return best * 1000
