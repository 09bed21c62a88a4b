"""Switch Transformers (2101.03961), Table 9, and what its counts correct.

Every count below is of 32,128 vocabulary entries. Where Table 9 and the published number of
parameters disagree the preset has the number:

- Switch-Base: an expert of 4.72M parameters (ReLU 768 x 3072; GEGLU 768 x 2048 counts the same),
  tied: 1.07, 1.98, 3.79, 7.41 and 14.66B for 16 to 256 experts, as published.
- Switch-Large: 26.3B is ReLU of width 4,096, tied; Table 9's GEGLU of 2,816 gives 27.1B.
- Switch-XXL: 395B needs 128 experts in every other layer, untied; Table 9's 64 give 201B.
- Switch-C: 1,571B is 32 heads, untied, every layer sparse; the released configuration says 30.

Training capacity is the published one: 1.25, and 1.0 for Switch-C. The published factors of
evaluation are 2.0, and 4.0 for Switch-XXL; the presets drop nothing in evaluation. Routing groups
are the released ones of 8,192, 4,096 and 2,048 tokens, in rows of 512 encoder tokens.
All matrices start at a tenth of the usual variance (section 2.4). Tokens are served in token
order, as a decoder must; with one choice a token Mesh-TF's order is the same.
"""

from functools import partial

from turnout.config.losses import LossConfig
from turnout.config.model import EncoderDecoderConfig
from turnout.config.moe import MoEConfig, Placement, RowsGroup
from turnout.config.presets.recipes import span
from turnout.config.presets.t5 import SIZES_1_0, SIZES_1_1, scaled_down, t5_shape

LOSSES = LossConfig(balance=0.01, router_z=0.0)  # the paper has no router z-loss
BASE_EXPERTS = (16, 32, 64, 128, 256)


def switch_base(num_experts: int = 128) -> EncoderDecoderConfig:
    """T5-Base with every other feed-forward network sparse."""
    moe = MoEConfig(num_experts, group=RowsGroup(16))
    return scaled_down(t5_shape(SIZES_1_0["base"], "relu", tied=True, moe=moe))


def switch_large(num_experts: int = 128) -> EncoderDecoderConfig:
    """T5-Large likewise: 26.3B parameters."""
    moe = MoEConfig(num_experts, group=RowsGroup(8))
    return scaled_down(t5_shape(SIZES_1_0["large"], "relu", tied=True, moe=moe))


def switch_xxl(num_experts: int = 128) -> EncoderDecoderConfig:
    """T5-XXL likewise: 395B parameters."""
    moe = MoEConfig(num_experts, group=RowsGroup(8), min_capacity=2)
    return scaled_down(t5_shape(SIZES_1_1["xxl"], "geglu", tied=False, moe=moe))


def switch_c(num_experts: int = 2048) -> EncoderDecoderConfig:
    """Every layer sparse, 2,048 experts: 1,571B parameters."""
    moe = MoEConfig(
        num_experts,
        group=RowsGroup(4),
        placement=Placement(step=1),
        train_capacity_factor=1.0,
        min_capacity=2,
    )
    return scaled_down(t5_shape((2080, 6144, 15, 32, 64), "relu", tied=False, moe=moe))


def _base_summary(num_experts: int) -> str:
    return f"Switch-Base, {num_experts} experts"


PRESETS = (
    span("switch_base", f"{_base_summary(128)}: 7.4B", switch_base, LOSSES),
    *(
        span(f"switch_base_{n}", _base_summary(n), partial(switch_base, n), LOSSES)
        for n in BASE_EXPERTS
    ),
    span("switch_large", "Switch-Large, 128 experts: 26.3B", switch_large, LOSSES),
    span("switch_xxl", "Switch-XXL, 128 experts: 395B", switch_xxl, LOSSES),
    span("switch_c", "Switch-C, 2,048 experts: 1,571B", switch_c, LOSSES),
)
