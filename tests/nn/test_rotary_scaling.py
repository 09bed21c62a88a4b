"""Scaled rotary frequencies by hand, and against those of transformers."""

import math

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.deepseek_v2.modeling_deepseek_v2 import apply_rotary_emb

from turnout.config.errors import ConfigError
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.model import AttentionConfig, DecoderOnlyConfig, Rotary
from turnout.config.positions import RotaryScaling
from turnout.config.rotary_scaling import LinearScaling, Llama3Scaling, YarnScaling
from turnout.nn.positions import RotaryAngles
from turnout.nn.rotary_scaling import rotary_scaling

YARN = {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096}
FORMS: dict[str, tuple[dict[str, object], RotaryScaling]] = {
    "linear": ({"rope_type": "linear", "factor": 3.0}, LinearScaling(3.0)),
    "llama3": (
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "original_max_position_embeddings": 8192,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
        },
        Llama3Scaling(8.0, 8192),
    ),
    "yarn": (YARN, YarnScaling(32.0, 4096)),
    "yarn of gpt-oss": (YARN | {"truncate": False}, YarnScaling(32.0, 4096, truncate=False)),
    "yarn of DeepSeek-V2": (
        YARN | {"mscale": 0.707, "mscale_all_dim": 0.5, "beta_fast": 16.0, "beta_slow": 2.0},
        YarnScaling(32.0, 4096, 16.0, 2.0, mscale=0.707, mscale_all_dim=0.5),
    ),
    "yarn with a factor": (
        YARN | {"attention_factor": 1.5},
        YarnScaling(32.0, 4096, attention_factor=1.5),
    ),
    "yarn of one pair's width": (
        YARN | {"original_max_position_embeddings": 7},
        YarnScaling(32.0, 7),
    ),
}


def frequencies(angles: RotaryAngles) -> Tensor:
    """Angle at position 1, as long as no pair turns by more than pi."""
    rotation = angles.at(torch.tensor([[1]]))
    return torch.atan2(rotation.sin, rotation.cos).flatten()


@pytest.mark.parametrize("theta", [10_000.0, 150_000.0])
@pytest.mark.parametrize("width", [8, 64, 128])
@pytest.mark.parametrize("name", FORMS)
@pytest.mark.filterwarnings("ignore")
def test_frequencies_are_those_of_transformers(name: str, width: int, theta: float) -> None:
    theirs, ours = FORMS[name]
    config = LlamaConfig(
        hidden_size=4 * width,
        num_attention_heads=4,
        max_position_embeddings=131_072,
        rope_parameters=theirs | {"rope_theta": theta},
    )
    expected, magnitude = ROPE_INIT_FUNCTIONS[str(theirs["rope_type"])](config, "cpu")
    angles = RotaryAngles(theta, width, rotary_scaling(ours))
    torch.testing.assert_close(frequencies(angles), expected, rtol=2e-6, atol=0)
    assert angles.scaling.magnitude == pytest.approx(magnitude, rel=1e-12)
    rotation = angles.at(torch.tensor([[5]]))
    found = (rotation.cos.square() + rotation.sin.square()).sqrt()
    torch.testing.assert_close(found, torch.full_like(found, magnitude))


def test_yarn_by_hand() -> None:
    # Width 8, theta 16: frequencies 1, 1/2, 1/4, 1/8. In 64 pi tokens pair p turns 32 / 2^p times:
    # 16 times at p = 1, 4 times at p = 3. The ramp from 1 to 3 leaves pairs 0 and 1, divides pair
    # 3 by 4, and pair 2 is half way: (1/4 + 1/16) / 2 = 5/32.
    scaling = YarnScaling(4.0, 201, beta_fast=16.0, beta_slow=4.0, truncate=False)
    low, high = scaling.ramp(16.0, 8)
    assert (low, high) == pytest.approx((1.0, 3.0), abs=2e-3)
    found = frequencies(RotaryAngles(16.0, 8, rotary_scaling(scaling)))
    torch.testing.assert_close(found, torch.tensor([1, 0.5, 5 / 32, 1 / 32]), rtol=2e-3, atol=0)
    # 0.1 ln 4 + 1
    assert scaling.magnitude == pytest.approx(1.1386294)


def test_ends_of_the_ramp_are_rounded_outwards() -> None:
    assert YarnScaling(4.0, 180, 16.0, 4.0).ramp(16.0, 8) == (0, 3)
    assert YarnScaling(4.0, 240, 16.0, 4.0).ramp(16.0, 8) == (1, 4)


def test_llama3_by_hand() -> None:
    # Theta 16, width 8: frequencies 1 .. 1/8; in 16 pi tokens pair p turns 8 / 2^p times. Four
    # times or more (0, 1) are kept, once (3) is divided by 8; pair 2 turns twice, a third of the
    # way from 1 to 4: 1/4 * (1/3 + 2/3 / 8) = 5/48.
    found = frequencies(RotaryAngles(16.0, 8, rotary_scaling(Llama3Scaling(8.0, 50))))
    expected = torch.tensor([1, 0.5, 5 / 48, 1 / 64])
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=0)


def test_factor_1_changes_nothing() -> None:
    plain = frequencies(RotaryAngles(100.0, 16))
    for scaling in (LinearScaling(1.0), Llama3Scaling(1.0, 64), YarnScaling(1.0, 64)):
        angles = RotaryAngles(100.0, 16, rotary_scaling(scaling))
        assert torch.equal(frequencies(angles), plain)
        assert angles.scaling.magnitude == 1.0


def test_interleaved_rotation_by_hand() -> None:
    # Frequencies 1 and 0.1, position 2; pairs are (x0, x1) and (x2, x3).
    rotation = RotaryAngles(100.0, 4, interleaved=True).at(torch.tensor([[2]]))
    turned = rotation.apply(torch.tensor([1.0, 0.0, 0.0, 1.0]).view(1, 1, 1, 4)).flatten()
    expected = [math.cos(2), math.sin(2), -math.sin(0.2), math.cos(0.2)]
    torch.testing.assert_close(turned, torch.tensor(expected))


def test_interleaved_rotation_is_that_of_deepseek_v2() -> None:
    x = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0))
    position = torch.arange(5).expand(2, 5) + torch.tensor([[0], [7]])
    angles = position[..., None] * 10_000.0 ** (-torch.arange(0, 8, 2) / 8)
    expected, _ = apply_rotary_emb(x, x, torch.polar(torch.ones_like(angles), angles))
    found = RotaryAngles(10_000.0, 8, interleaved=True).at(position).apply(x)
    torch.testing.assert_close(found, expected)


def test_what_is_not_rotated_passes() -> None:
    x = torch.randn(1, 2, 3, 8, generator=torch.Generator().manual_seed(0))
    position = torch.tensor([[1, 4, 9]])
    for interleaved in (False, True):
        rotation = RotaryAngles(100.0, 4, interleaved=interleaved).at(position)
        turned = rotation.apply(x)
        assert torch.equal(turned[..., 4:], x[..., 4:])
        assert torch.equal(turned[..., :4], rotation.apply(x[..., :4]))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LinearScaling(0.5), "positions.scaling.factor = 0.5: must be at least 1"),
        (
            lambda: YarnScaling(2.0, 0),
            "positions.scaling.original_length = 0: must be at least 1",
        ),
        (
            lambda: YarnScaling(2.0, 64, beta_fast=1.0, beta_slow=1.0),
            "positions.scaling.beta_fast = 1.0: must be above positions.scaling.beta_slow (1.0)",
        ),
        (
            lambda: YarnScaling(2.0, 64, attention_factor=0.0),
            "positions.scaling.attention_factor = 0.0: must be above 0",
        ),
        (
            lambda: YarnScaling(2.0, 64, mscale=1.0),
            "positions.scaling.mscale = 1.0: must be left out without mscale_all_dim, and with "
            "attention_factor; it is the quotient of the two that counts, unless attention_factor "
            "says it",
        ),
        (
            lambda: Llama3Scaling(2.0, 64, low_frequency=4.0),
            "positions.scaling.high_frequency = 4.0: must be above "
            "positions.scaling.low_frequency (4.0)",
        ),
        (lambda: Rotary(share=0.0), "positions.share = 0.0: must be above 0, at most 1"),
        (
            lambda: DecoderOnlyConfig(
                9, 8, 1, AttentionConfig(2, 4), FeedForwardConfig(8), positions=Rotary(share=0.3)
            ),
            "model.positions.share = 0.3: must be such that an even part of a head of 4 is rotated"
            ", at least 2",
        ),
    ],
)
def test_refusals(build: object, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        build()  # type: ignore[operator]
    assert str(refused.value) == message
