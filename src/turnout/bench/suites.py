"""The suites by their names."""

from collections.abc import Callable, Mapping
from typing import Final

from turnout.bench.options import TOUR, offer
from turnout.bench.suite import Suite


def build(name: str) -> Suite:
    """A suite, whose imports happen here: one that times transformers needs seconds for them.

    Raises:
        UserError: there is none of that name.
    """
    offer(name)
    return _BUILDERS[name]()


def _tour() -> Suite:
    from turnout.bench.tour import TourSuite

    return TourSuite()


def _layer() -> Suite:
    from turnout.bench.layer import LayerSuite
    from turnout.bench.peers.mixture_of_experts import MixtureOfExpertsPeer
    from turnout.bench.peers.st_moe import StMoePeer
    from turnout.bench.peers.transformers_switch import SwitchPeer

    return LayerSuite((SwitchPeer(), StMoePeer(), MixtureOfExpertsPeer()))


def _step() -> Suite:
    from turnout.bench.step import StepSuite

    return StepSuite()


def _generation() -> Suite:
    from turnout.bench.generation import GenerationSuite

    return GenerationSuite()


def _experts() -> Suite:
    from turnout.bench.experts import ExpertsSuite

    return ExpertsSuite()


def _scaling() -> Suite:
    from turnout.bench.scaling import ScalingSuite

    return ScalingSuite()


_BUILDERS: Final[Mapping[str, Callable[[], Suite]]] = {
    TOUR: _tour,
    "layer": _layer,
    "step": _step,
    "generation": _generation,
    "experts": _experts,
    "scaling": _scaling,
}
