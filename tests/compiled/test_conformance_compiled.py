"""Every router of the package under the whole kit, compilation included; the verdicts."""

import pytest

from tests.conformance.defects import DEFECTS, Planted
from turnout.conformance import RouterLayer, check
from turnout.conformance.examples import EXAMPLES


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_every_router_keeps_the_contract(name):
    found = check(RouterLayer(EXAMPLES[name], name))
    assert found.passed, found.text()


def test_a_layer_that_reads_on_the_host_is_caught():
    plant, router, named = DEFECTS["read on the host"]
    assert named in check(Planted("host", plant, router)).failures
