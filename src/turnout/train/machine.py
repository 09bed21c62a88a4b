"""What a run computes with: versions of packages, and the machine."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import torch

PACKAGES: Final = ("turnout", "torch", "numpy", "safetensors", "jaxtyping")


def versions() -> dict[str, str]:
    """Of Python and the packages that results depend on."""
    return {
        "python": platform.python_version(),
        **{name: package_version(name) for name in PACKAGES},
    }


def machine() -> dict[str, Any]:
    """What computes: system, processor, cores, threads, accelerators; no name or address."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "accelerators": [torch.cuda.get_device_name(index) for index in range(count)],
    }


def processor() -> str:
    """The processor's model, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def package_version(package: str) -> str:
    """Of an installed package; of a source folder alone nothing is known."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
