"""Families of checkpoints, a file each."""

from turnout.convert.families.base import Family, Read
from turnout.convert.families.deepseek_moe import DEEPSEEK_MOE
from turnout.convert.families.deepseek_v2 import DEEPSEEK_V2
from turnout.convert.families.deepseek_v3 import DEEPSEEK_V3
from turnout.convert.families.gpt_oss import GPT_OSS
from turnout.convert.families.granite import GRANITE_MOE
from turnout.convert.families.mixtral import MIXTRAL
from turnout.convert.families.nllb_moe import NLLB_MOE
from turnout.convert.families.qwen import OLMOE, QWEN2_MOE, QWEN3_MOE
from turnout.convert.families.switch import SWITCH
from turnout.convert.families.t5 import MT5, T5

FAMILIES: tuple[Family, ...] = (
    *(T5, MT5, SWITCH, MIXTRAL, OLMOE, QWEN2_MOE, QWEN3_MOE, GRANITE_MOE, DEEPSEEK_MOE),
    *(DEEPSEEK_V2, DEEPSEEK_V3, GPT_OSS, NLLB_MOE),
)

__all__ = ["FAMILIES", "Family", "Read"]
