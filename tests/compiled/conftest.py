"""Tests of torch.compile; tests/test_compiled.py runs them apart, without run-time shape checks."""

import pytest
import torch


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()
