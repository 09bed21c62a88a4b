"""A learned position bias in a whole model: what is kept of it, and its gradient on every path."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from tests.models.cases import GLAM, T5, batch_for
from turnout.config.attention import AttentionConfig
from turnout.config.model import ModelConfig
from turnout.models import build
from turnout.nn import learned_bias

ROWS, HEADS, LENGTH = 3, 4, 16
CASES: dict[str, ModelConfig] = {
    "one a stack": T5,
    "one a layer": GLAM,
    "sinks": replace(T5, attention=AttentionConfig(4, 4, scaled=False, sinks=True)),
    "windows": replace(GLAM, attention=AttentionConfig(4, 4, window=5)),
    "groups of heads": replace(T5, attention=AttentionConfig(4, 4, num_kv_heads=2)),
    "dropout": replace(T5, dropout=0.2),
}


def step(
    config: ModelConfig, dtype: torch.dtype, *, recompute: bool = False
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Gradients, and all that was kept for them."""
    model = build(config, dtype=dtype, recompute=recompute)
    model.init_weights(0)
    torch.manual_seed(1)
    batch = batch_for(config, [LENGTH, 9, 12], [11, LENGTH, 5])
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(batch)
        loss = output.head.cross_entropy(output.hidden, batch.targets, batch.target_mask)
    loss.total.backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["one a stack", "one a layer", "sinks", "windows"])
def test_nothing_as_large_as_all_logits_is_kept(name: str, dtype: torch.dtype) -> None:
    _, kept = step(CASES[name], dtype)
    assert any(t.shape[:2] == (1, HEADS) for t in kept)  # the bias alone
    logits = [t.shape for t in kept if t.dim() == 4 and t.shape[:2] == (ROWS, HEADS)]
    assert logits
    assert all(shape[3] == 4 for shape in logits)  # queries, keys, values and sums: a head's width


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_a_bias_in_one_piece(
    name: str, recompute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _ = step(CASES[name], torch.float32, recompute=recompute)
    monkeypatch.setattr(learned_bias, "wanted", lambda *_: False)
    expected, _ = step(CASES[name], torch.float32)
    assert found.keys() == expected.keys()
    for each, gradient in expected.items():
        if "position_bias" in each:
            assert gradient.abs().sum() > 0
        torch.testing.assert_close(found[each], gradient, atol=2e-5, rtol=2e-5)


def test_without_gradients_layers_share_one_piece() -> None:
    model = build(T5)
    model.init_weights(0)
    shapes = []
    attention = model.decoder.blocks[0].self_attention.attention  # type: ignore[attr-defined]
    attention.register_forward_pre_hook(lambda _, given: shapes.append(given[2].shape))
    with torch.no_grad():
        model(batch_for(T5, [LENGTH] * ROWS, [LENGTH] * ROWS))
    assert shapes == [(ROWS, HEADS, LENGTH, LENGTH)]
