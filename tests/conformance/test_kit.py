"""The kit catches what it is for: planted defects, each by the property that names it."""

import pytest
import torch
from torch import nn

from tests.conformance.defects import DEFECTS, Planted
from turnout.config.routers import SwitchRouter
from turnout.conformance import ForeignLayer, RouterLayer, check
from turnout.conformance.properties import PROPERTIES

# torch.compile cannot trace the run-time shape checks of the tests: tests/compiled asks that.
PLAIN = [asked for asked in PROPERTIES if asked.name != "compiled"]


@pytest.mark.parametrize("name", [name for name in DEFECTS if DEFECTS[name][2] != "compiled"])
def test_a_planted_defect_is_caught(name):
    plant, router, named = DEFECTS[name]
    found = check(Planted(name, plant, router), [p for p in PLAIN if p.name == named])
    caught = {each.name: each.detail for each in found.findings if each.status == "FAILS"}
    assert named in caught, found.text()
    assert not caught[named].startswith("raises "), caught[named]


def test_a_sound_layer_passes():
    found = check(RouterLayer(SwitchRouter()), PLAIN)
    assert found.passed, found.text()
    assert {finding.status for finding in found.findings} == {"holds"}


def test_a_plant_that_changes_nothing_passes():
    found = check(Planted("sound", lambda layer: layer, SwitchRouter()), PLAIN)
    assert found.passed, found.text()


def test_what_a_layer_raises_is_a_finding():
    def broken(layer):
        raise RuntimeError("no experts\nat all")

    found = check(Planted("raises", broken, SwitchRouter()), PLAIN[:1])
    assert found.findings[0].detail == "raises RuntimeError: no experts"


class MeanOverTheBatch(nn.Module):
    """A foreign block that couples the rows."""

    def forward(self, x):
        return x - x.mean((0, 1))


class Cumulative(nn.Module):
    def forward(self, x):
        return x + x.cumsum(1)


@pytest.mark.parametrize(
    ("module", "failures"),
    [
        (nn.Linear(8, 8), ()),
        (Cumulative(), ("permutation",)),
        (MeanOverTheBatch(), ("batch mates", "micro-batches", "causal")),
        (nn.Dropout(0.5), ()),
    ],
)
def test_foreign_modules(module, failures):
    subject = ForeignLayer(module, 8)
    found = check(subject, PLAIN)
    assert found.failures == failures, found.text()
    assert torch.is_grad_enabled()
