"""The conformance kit on the library's sparse blocks, in its models as they are."""

import pytest
import torch
from torch import nn

from tests.integrations.transformers.families import FAMILIES, built
from turnout.conformance import check
from turnout.conformance.properties import PROPERTIES
from turnout.integrations.transformers import subjects, use

PLAIN = [asked for asked in PROPERTIES if asked.name != "compiled"]


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_keep_what_can_be_asked(family: str) -> None:
    first, second = subjects(built(family))
    assert first.name.startswith("model.layers.") and first.name != second.name
    found = check(first, PLAIN)
    assert found.passed, found.text()
    assert sum(finding.status == "holds" for finding in found.findings) >= 8


def test_blocks_keep_it_on_our_experts() -> None:
    use()
    found = check(subjects(built("olmoe", experts_implementation="turnout"))[0], PLAIN)
    assert found.passed, found.text()


def test_a_block_that_leaks_is_caught() -> None:
    """A router that also reads the mean of its row lets early tokens see late ones."""
    model = built("mixtral")
    block = model.model.layers[0].mlp

    class Leaky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = block

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.block(x + x.mean(1, keepdim=True))

    subject = subjects(model)[0]
    subject.module = Leaky()
    assert "causal" in check(subject, PLAIN).failures
