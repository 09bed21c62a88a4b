"""Activations by hand."""

import math

import torch

from turnout.nn.activations import activate


def test_clamped_swiglu_by_hand() -> None:
    # gate 1, up 2: 1 * sigmoid(1.702) * 3; gate 9 is 7, up -9 is -7: 7 * sigmoid(11.914) * -6;
    # gate -9 is not clamped, up 9 is 7: -9 * sigmoid(-15.318) * 8; nothing of gate 0.
    gate, up = torch.tensor([1.0, 9.0, -9.0, 0.0]), torch.tensor([2.0, -9.0, 9.0, 5.0])

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    expected = [sigmoid(1.702) * 3, -42 * sigmoid(11.914), -72 * sigmoid(-15.318), 0.0]
    torch.testing.assert_close(activate("clamped_swiglu", up, gate), torch.tensor(expected))


def test_nothing_is_learnt_beyond_the_clamp() -> None:
    gate = torch.tensor([9.0, 1.0, 1.0], requires_grad=True)
    up = torch.tensor([0.0, 9.0, 1.0], requires_grad=True)
    activate("clamped_swiglu", up, gate).sum().backward()
    assert gate.grad is not None and up.grad is not None
    assert (gate.grad != 0).tolist() == [False, True, True]
    assert (up.grad != 0).tolist() == [True, False, True]
