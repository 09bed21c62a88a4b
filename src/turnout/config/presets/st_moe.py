"""ST-MoE (2202.08906), Table 11: top-2, GEGLU experts, an extra dense network behind each layer.

- ST-MoE-32B: 24 + 24 layers, 6 + 6 of them sparse, 64 experts, untied, with the extra networks:
  269.1B parameters, published 269B.
- ST-MoE-L: its number of layers is not printed. 24 + 24 with 32 experts, 6 + 6 sparse, extra
  networks and an untied head count 4.105B, published 4.1B; 27 + 27, the layers of Dense-L, count
  4.195B.
- Dense-L: 27 + 27 layers as printed; tied, 0.840B, published 0.8B (0.873B untied).

The published training capacity factor is 1.25 of ``tokens / experts`` slots, whatever the number
of choices; here a factor counts the choices too (``factor * k * tokens / experts``), so 1.25
reads 0.625. In evaluation the paper uses 2.0 (1.0 here); the presets drop nothing.

Groups of ST-MoE-L are the paper's 2,048 encoder and 456 decoder tokens, four rows of 512 and of
114; ST-MoE-32B has the 4,096 encoder tokens of its released configuration. The paper serves all
first choices before any second one; the presets serve token by token, since the other order lets a
decoder's tokens be dropped because of later ones. All matrices start at a tenth of the usual
variance, as in Switch.
"""

from turnout.config.losses import LossConfig
from turnout.config.model import EncoderDecoderConfig
from turnout.config.moe import MoEConfig, Placement, RowsGroup
from turnout.config.presets.recipes import span
from turnout.config.presets.t5 import scaled_down, t5_shape
from turnout.config.routers import Top2Router

LOSSES = LossConfig(balance=0.01, router_z=0.001, balance_variant="st_moe")


def _moe(num_experts: int, rows: int) -> MoEConfig:
    return MoEConfig(
        num_experts,
        router=Top2Router(),
        extra_ffn=True,
        placement=Placement(step=4),
        group=RowsGroup(rows),
        train_capacity_factor=1.25 / 2,
    )


def st_moe_32b() -> EncoderDecoderConfig:
    """269B parameters, every fourth layer sparse."""
    return scaled_down(t5_shape((5120, 20_480, 24, 64, 128), "geglu", tied=False, moe=_moe(64, 8)))


def st_moe_l() -> EncoderDecoderConfig:
    """4.1B parameters, every fourth layer sparse; the layers are fixed by the count."""
    return scaled_down(t5_shape((1024, 2816, 24, 16, 64), "geglu", tied=False, moe=_moe(32, 4)))


def dense_l() -> EncoderDecoderConfig:
    """The dense model that ST-MoE-L is compared with."""
    return t5_shape((1024, 2816, 27, 16, 64), "geglu", tied=True)


PRESETS = (
    span("st_moe_l", "ST-MoE-L, 32 experts: 4.1B", st_moe_l, LOSSES),
    span("st_moe_32b", "ST-MoE-32B, 64 experts: 269B", st_moe_32b, LOSSES),
    span("st_moe_dense_l", "Dense-L, ST-MoE's dense baseline: 0.8B", dense_l),
)
