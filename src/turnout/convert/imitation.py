"""What transformers computes otherwise than the papers, taken over where it is asked for by name.

Off by default: a converted model computes what its paper says.
"""

from dataclasses import replace
from functools import singledispatch

from turnout.config.errors import ConfigError, UserError
from turnout.config.model import ModelConfig
from turnout.convert.families.base import Family, Read
from turnout.convert.families.switch import SwitchFamily

THEM = "transformers"


def with_imitation(
    family: Family, config: ModelConfig, values: Read, imitate: str | None
) -> ModelConfig:
    """``config`` as its family wants it, or so that it evaluates as transformers does.

    Raises:
        UserError: ``imitate`` is no name, or transformers does nothing else in this family.
    """
    if imitate is None:
        return config
    if imitate != THEM:
        raise ConfigError("imitate", imitate, f"{THEM!r}, or left out")
    found = imitating(family, config, values)
    if found == config:
        raise UserError(
            f"imitate = {imitate!r}: must be left out for {family.model_type}: nothing that "
            "transformers computes otherwise in it can be imitated"
        )
    return found


def imitates(config: ModelConfig) -> bool:
    """Whether a model evaluates as transformers does."""
    return config.moe is not None and config.moe.eval_slots is not None


@singledispatch
def imitating(family: object, config: ModelConfig, values: Read) -> ModelConfig:
    """``config`` with what transformers does otherwise in this family; itself where that is
    nothing."""
    return config


@imitating.register
def _(family: SwitchFamily, config: ModelConfig, values: Read) -> ModelConfig:
    """``expert_capacity`` slots an expert and row, which padding takes too."""
    if config.moe is None:
        return config
    slots = values.whole("expert_capacity", 64)
    return replace(config, moe=replace(config.moe, eval_slots=slots))
