"""``turnout doctor``: versions, threads, dtypes, and the product backend of each shape."""

import platform
from collections.abc import Sequence
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
    options = parser.parse(arguments)
    import turnout

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
    ]


def _products(rows: int) -> list[str]:
    """A line a shape: what ``auto`` takes and why, and every backend's time, measured now."""
    import torch

    from turnout.moe import products

    lines = ["grouped product, forward and backward, milliseconds (measured now, best of 3):"]
    for experts, d_in, d_out in ((8, 128, 512), (64, 128, 512), (8, 512, 2048)):
        for dtype in (torch.float32, torch.bfloat16):
            shape = products.ProductShape(rows, experts, d_in, d_out, dtype, "cpu")
            choice = products.choose(shape)
            usable = [name for name in products.BACKENDS if products.usable(name, shape)]
            times = ", ".join(f"{name} {_milliseconds(shape, name):.1f}" for name in usable)
            lines.append(
                f"  E={experts} {d_in}x{d_out} {str(dtype).removeprefix('torch.')}, {rows} rows: "
                f"{times}; auto takes {choice.backend}: {choice.why}"
            )
    return lines


def _milliseconds(shape: Any, backend: Any) -> float:
    import time

    import torch

    from turnout.moe.products import grouped_product

    generator = torch.Generator().manual_seed(0)
    size = (shape.num_experts, shape.d_in, shape.d_out)
    rows = torch.randn(shape.rows, shape.d_in, generator=generator).to(shape.dtype)
    weight = torch.randn(size, generator=generator).to(shape.dtype)
    each = shape.rows // shape.num_experts
    offsets = (torch.arange(1, shape.num_experts + 1) * each).to(torch.int32)
    rows.requires_grad_()
    weight.requires_grad_()
    best = float("inf")
    for _ in range(4):  # the first warms up
        started = time.perf_counter()
        out = grouped_product(rows, weight, offsets, backend)
        torch.autograd.grad(out, (rows, weight), torch.ones_like(out))
        best = min(best, time.perf_counter() - started)
    return best * 1000
