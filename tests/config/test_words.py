"""Fields that take one of some words refuse others in Python too, with the nearest word."""

import importlib
import pkgutil
from dataclasses import fields, is_dataclass
from typing import Any, Literal, get_args, get_origin

import pytest

import turnout.config
from turnout.config.attention import AttentionConfig
from turnout.config.errors import ConfigError
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.model import DecoderOnlyConfig, EncoderDecoderConfig
from turnout.config.moe import MoEConfig

SHARED: dict[str, Any] = {
    "vocab_size": 10,
    "d_model": 8,
    "attention": AttentionConfig(2, 4),
    "feed_forward": FeedForwardConfig(8),
}
REQUIRED: dict[type, dict[str, Any]] = {
    AttentionConfig: {"num_heads": 2, "head_dim": 4},
    FeedForwardConfig: {"d_ff": 8},
    MoEConfig: {"num_experts": 4},
    DecoderOnlyConfig: {**SHARED, "num_layers": 2},
    EncoderDecoderConfig: {**SHARED, "encoder_layers": 2, "decoder_layers": 2},
}


def worded() -> list[tuple[type, str, tuple[str, ...]]]:
    """Every class of the configuration, field and its words."""
    found = {}
    for module in pkgutil.walk_packages(turnout.config.__path__, "turnout.config."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and is_dataclass(value):
                for field in fields(value):
                    if get_origin(field.type) is Literal:
                        found[value, field.name] = get_args(field.type)
    return [(kind, name, words) for (kind, name), words in found.items()]


def construct(config: Any, name: str, value: object) -> None:
    """As the constructor does; under test the constructor itself checks types before."""
    object.__setattr__(config, name, value)
    config.__post_init__()


def test_there_are_some() -> None:
    assert {"priority", "dispatcher", "activation", "qk_norm"} <= {name for _, name, _ in worded()}


@pytest.mark.parametrize(
    ("kind", "name", "words"), worded(), ids=lambda value: getattr(value, "__name__", str(value))
)
def test_another_word_is_refused(kind: type, name: str, words: tuple[str, ...]) -> None:
    for wrong in ("no such word", None, 3):
        with pytest.raises(ConfigError, match=rf"{name} = .*: must be one of {words[0]}"):
            construct(kind(**REQUIRED.get(kind, {})), name, wrong)


def test_the_nearest_is_named() -> None:
    with pytest.raises(ConfigError) as refused:
        construct(MoEConfig(4), "priority", "tokn")
    assert str(refused.value) == (
        "moe.priority = 'tokn': must be one of token, choice, score, random; did you mean 'token'?"
    )
