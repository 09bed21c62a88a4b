"""Named runs: published models and small ones, each with its dense twin."""

from dataclasses import replace

from turnout.config.errors import ConfigError, UserError, nearest
from turnout.config.objective import PrefixConfig, TextToTextConfig
from turnout.config.presets import glam, modern, small, st_moe, switch, t5
from turnout.config.presets.preset import ObjectiveKind, Preset
from turnout.config.train import RunConfig

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        *small.PRESETS,
        *switch.PRESETS,
        *st_moe.PRESETS,
        *t5.PRESETS,
        *glam.PRESETS,
        *modern.PRESETS,
    )
}

__all__ = ["PRESETS", "ObjectiveKind", "Preset", "run"]


def run(name: str, objective: str | None = None, dense: bool = False) -> RunConfig:
    """The run named ``name``, for ``objective`` or the preset's first, sparse or dense.

    The dense twin has no sparse layer and none of the routers' losses; both keep a folder of
    their own.

    Raises:
        UserError: an unknown name, an objective the preset has no form for, the dense twin of a
            dense model.
    """
    if name not in PRESETS:
        raise UserError(f"no preset {name!r}; {nearest(name, PRESETS)}")
    preset = PRESETS[name]
    kind = next((k for k in preset.objectives if objective in (None, k)), None)
    if kind is None:
        allowed = " or ".join(repr(k) for k in preset.objectives)
        fix = f"a form of it may take another objective, as with --objective.kind {objective}"
        other = objective in (PrefixConfig.kind, TextToTextConfig.kind)
        raise ConfigError(
            "objective", objective, f"{allowed} for the preset {name}", fix if other else ""
        )
    config = preset.build(kind)
    suffix = "" if kind == preset.objectives[0] else f"-{kind}"
    config = replace(config, out=f"{config.out}{suffix}")
    return dense_twin(config) if dense else config


def dense_twin(config: RunConfig) -> RunConfig:
    """``config`` without sparse layers and without the losses of their routers.

    Raises:
        UserError: the model has no sparse layer.
    """
    if config.model.moe is None:
        raise UserError(f"the model of {config.preset} is dense already: leave out --dense")
    losses = config.losses.without_router()
    return replace(
        config, model=config.model.dense_twin(), losses=losses, out=f"{config.out}-dense"
    )
