"""The suites by their names."""

from collections.abc import Callable, Mapping
from typing import Final

from turnout.bench.options import offer
from turnout.bench.suite import Suite


def build(name: str) -> Suite:
    """A suite, whose imports happen here: one that times transformers needs seconds for them.

    Raises:
        UserError: there is none of that name.
    """
    offer(name)
    return _BUILDERS[name]()


def _layer() -> Suite:
    from turnout.bench.layer import LayerSuite
    from turnout.bench.peers.transformers_switch import SwitchPeer

    return LayerSuite((SwitchPeer(),))


def _step() -> Suite:
    from turnout.bench.step import StepSuite

    return StepSuite()


def _generation() -> Suite:
    from turnout.bench.generation import GenerationSuite

    return GenerationSuite()


_BUILDERS: Final[Mapping[str, Callable[[], Suite]]] = {
    "layer": _layer,
    "step": _step,
    "generation": _generation,
}
