"""From the configured initialisation to the standard deviations of a model's parts."""

from dataclasses import dataclass, replace
from functools import singledispatch

from turnout.config.errors import UserError
from turnout.config.initialisation import FanInInit, Initialisation, NormalInit
from turnout.config.moe import MoEConfig


@dataclass(frozen=True)
class Deviations:
    """Standard deviations, and what a shared embedding does to the logits.

    Attributes:
        matrix: of every matrix; None means ``sqrt(scale / fan_in)``.
        scale: of the fan-in form.
        embedding: of the token embeddings, shared with the head or not.
        head: of a head with weights of its own.
        position: of the tables of relative biases.
        shared_logits: factor on the hidden states before a head that shares the embedding.
    """

    matrix: float | None
    scale: float
    embedding: float
    head: float
    position: float
    shared_logits: float


@singledispatch
def deviations(initialisation: Initialisation, d_model: int) -> Deviations:
    """The deviations of a model of width ``d_model``."""
    raise UserError(f"model.initialisation = {initialisation!r}: no such initialisation")


@deviations.register
def _(initialisation: FanInInit, d_model: int) -> Deviations:
    fan_in = (initialisation.scale / d_model) ** 0.5
    return Deviations(
        matrix=None,
        scale=initialisation.scale,
        embedding=1.0,
        head=fan_in,
        position=fan_in,
        shared_logits=d_model**-0.5,
    )


@deviations.register
def _(initialisation: NormalInit, d_model: int) -> Deviations:
    std = initialisation.std
    return Deviations(
        matrix=std, scale=1.0, embedding=std, head=std, position=std, shared_logits=1.0
    )


@singledispatch
def sparse_like(initialisation: Initialisation, moe: MoEConfig) -> MoEConfig:
    """``moe`` with its fan-in scale filled in, where it is to follow ``initialisation``."""
    return moe


@sparse_like.register
def _(initialisation: FanInInit, moe: MoEConfig) -> MoEConfig:
    return replace(moe, init_scale=initialisation.scale) if moe.init_scale is None else moe
