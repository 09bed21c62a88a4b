"""Latent attention against its formulas written out head by head, in outputs and gradients."""

import math

import pytest
import torch
from torch import Tensor

from turnout.config.latent_attention import LatentAttention as Config
from turnout.nn.attention import Slots, attention_mask
from turnout.nn.latent_attention import LatentAttention
from turnout.nn.positions import RotaryAngles

WIDTH = 12
FORMS = {
    "straight queries": Config(3, 8, 4, 2, 6),
    "queries through a latent": Config(3, 8, 4, 2, 6, q_lora_rank=5),
}
SEGMENT = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 2, 2]])
POSITION = torch.tensor([[0, 0, 1, 2, 3], [0, 1, 2, 0, 1]])


def make(config: Config, **options: float) -> LatentAttention:
    attention = LatentAttention(WIDTH, config, epsilon=1e-6, dropout=0.0, **options)
    generator = torch.Generator().manual_seed(1)
    attention.init_weights(generator)
    for norm in (attention.query_norm, attention.latent_norm):
        if norm is not None:
            torch.nn.init.uniform_(norm.weight, 0.5, 1.5, generator=generator)
    return attention


def written_out(attention: LatentAttention, x: Tensor, allowed: Tensor) -> Tensor:
    """Equations 37 to 47 of 2405.04434, one head and one query at a time."""
    config = attention.config
    nope, rope, rank = config.qk_nope_head_dim, config.qk_rope_head_dim, config.kv_lora_rank

    def rms(states: Tensor, weight: Tensor) -> Tensor:
        return states / (states.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight

    def rotate(part: Tensor, position: int) -> Tensor:
        turned = []
        for p in range(rope // 2):
            angle = position * 100.0 ** (-2 * p / rope)
            one, two = part[2 * p], part[2 * p + 1]
            turned += [one * math.cos(angle) - two * math.sin(angle)]
            turned += [two * math.cos(angle) + one * math.sin(angle)]
        return torch.stack(turned)

    rows = []
    for b in range(x.shape[0]):
        states = x[b]
        if attention.query_down is not None:
            states = rms(states @ attention.query_down.weight.T, attention.query_norm.weight)
        queries = states @ attention.query.weight.T
        down = x[b] @ attention.latent.weight.T
        latent = rms(down[:, :rank], attention.latent_norm.weight)
        up = latent @ attention.key_value.weight.T
        outs = []
        for i in range(x.shape[1]):
            heads = []
            for h in range(config.num_heads):
                at = slice(h * (nope + rope), (h + 1) * (nope + rope))
                query = queries[i, at]
                here = up[:, h * (nope + config.v_head_dim) : (h + 1) * (nope + config.v_head_dim)]
                readable = [j for j in range(x.shape[1]) if allowed[b, 0, i, j]]
                logits = torch.stack(
                    [
                        query[:nope] @ here[j, :nope]
                        + rotate(query[nope:], int(POSITION[b, i]))
                        @ rotate(down[j, rank:], int(POSITION[b, j]))
                        for j in readable
                    ]
                )
                shares = (logits * attention.scale).softmax(0)
                heads.append(sum(s * here[j, nope:] for s, j in zip(shares, readable, strict=True)))
            outs.append(torch.cat(heads))
        rows.append(torch.stack(outs))
    return torch.stack(rows) @ attention.out.weight.T


@pytest.mark.parametrize("name", FORMS)
def test_it_is_its_formulas(name: str) -> None:
    attention = make(FORMS[name], logit_scale=1.3)
    assert attention.scale == pytest.approx(1.3 / math.sqrt(6))
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 5, WIDTH, generator=generator, requires_grad=True)
    weight = torch.randn(2, 5, WIDTH, generator=generator)
    allowed = attention_mask(SEGMENT, SEGMENT, SEGMENT > 0, causal=True)
    rotation = RotaryAngles(100.0, 2, interleaved=True).at(POSITION)
    got = attention(x, attention.project(x, rotation), allowed, rotation)
    expected = written_out(attention, x, allowed)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    wanted = [x, *attention.parameters()]
    found, plainly = (torch.autograd.grad((y * weight).sum(), wanted) for y in (got, expected))
    for one, other in zip(found, plainly, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_a_cache_holds_the_latent_and_one_rotated_part() -> None:
    config = FORMS["straight queries"]
    attention = make(config)
    x = torch.randn(1, 4, WIDTH, generator=torch.Generator().manual_seed(3))
    rotation = RotaryAngles(100.0, 2).at(torch.arange(4).unsqueeze(0))
    whole = attention.project(x, rotation)
    assert whole.keys.shape == (1, 1, 4, 2) and whole.values.shape == (1, 1, 4, 8)
    assert config.cached == ((1, 2), (1, 8))
    slots = Slots(torch.zeros(1, 1, 5, 2), torch.zeros(1, 1, 5, 8), used=0)
    read = slots.extend(whole)
    mask = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    with torch.no_grad():
        assert torch.equal(attention(x, read, mask, rotation), attention(x, whole, mask, rotation))


def test_initial_deviations() -> None:
    config = Config(8, 256, 48, 16, 64, q_lora_rank=192)
    attention = LatentAttention(320, config, epsilon=1e-6, dropout=0.0)
    attention.init_weights(torch.Generator().manual_seed(0))
    inputs = {"query_down": 320, "query": 192, "latent": 320, "key_value": 256, "out": 512}
    for name, fan_in in inputs.items():
        deviation = float(getattr(attention, name).weight.detach().std())
        assert deviation == pytest.approx(fan_in**-0.5, rel=0.02), name
    attention.init_weights(torch.Generator().manual_seed(0), std=0.006)
    assert float(attention.latent.weight.detach().std()) == pytest.approx(0.006, rel=0.02)
    for norm in (attention.query_norm, attention.latent_norm):
        assert torch.equal(norm.weight, torch.ones_like(norm.weight))
