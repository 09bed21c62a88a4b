"""Which of the other libraries are there."""

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import Final

INSTALL: Final = "pip install 'turnout[bench]'"

MODULES: Final[Mapping[str, str]] = {
    "transformers": "transformers",
    "st-moe-pytorch": "st_moe_pytorch",
    "mixture-of-experts": "mixture_of_experts",
}
"""The module of each distribution."""

DISTRIBUTIONS: Final = tuple(MODULES)


def installed(name: str) -> bool:
    """Whether a distribution can be imported."""
    return find_spec(MODULES[name]) is not None


def missing_line(names: Iterable[str]) -> str:
    """One line about those that are not there, with what installs them; empty if all are."""
    absent = [name for name in names if not installed(name)]
    return f"not installed, left out: {', '.join(absent)}; {INSTALL}" if absent else ""
