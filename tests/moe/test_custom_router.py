"""A router of the user's own: what is checked before it is trusted."""

import pytest
from torch import nn

from tests.moe.cases import full_mask, hidden, small_layer
from turnout.config import io
from turnout.config.errors import ConfigError, UserError
from turnout.config.presets import run
from turnout.config.routers import CustomRouter, RouterConfig, SwitchRouter
from turnout.moe import Router, RouterShape, RoutingContext, build_router
from turnout.moe.routers import register_router


class Wrapped(Router):
    """The Switch router, by composition."""

    def __init__(self, shape: RouterShape, choices: int = 1) -> None:
        super().__init__(choices=choices)
        self.inner = build_router(SwitchRouter(), shape)

    def init_weights(self, generator=None, *, std=None):
        self.inner.init_weights(generator, std=std)

    def forward(self, x, context):
        return self.inner(x, context)


class Unfinished(Router):
    def init_weights(self, generator=None, *, std=None):
        return None


register_router("tests:Wrapped", Wrapped)


def test_it_computes_what_its_parts_do():
    theirs, ours = small_layer(CustomRouter("tests:Wrapped")), small_layer(SwitchRouter())
    x, context = hidden(2, 8), RoutingContext.of(full_mask(2, 8))
    assert (theirs(x, context)[0] == ours(x, context)[0]).all()


@pytest.mark.parametrize(
    ("router", "message"),
    [
        (3, "must be a class that inherits from turnout.Router"),
        (nn.Linear, "must be a class that inherits from turnout.Router"),
        (Unfinished, "lacks the method forward"),
    ],
)
def test_a_class_that_cannot_route_is_refused(router, message):
    with pytest.raises(UserError, match=f"^router tests:Bad: {message}$"):
        register_router("tests:Bad", router)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (CustomRouter("tests:Other"), "is not imported, since .* add --trust tests:Other"),
        (CustomRouter("tests:Wrapped", k=2), r"router.k = 2: must be what the class says: 1"),
        (CustomRouter("tests:Wrapped", parameters=5), "parameters = 5: must be 32, as tests:Wr"),
        (CustomRouter("tests:Wrapped", options={"speed": 3}), "cannot be built from its options"),
    ],
)
def test_what_the_configuration_says_is_checked(config, message):
    with pytest.raises(UserError, match=message):
        build_router(config, RouterShape(8, 4))


@pytest.mark.parametrize("name", ["", "module", ":Class", "module:", "a b:C", "module:Class:x"])
def test_a_name_must_be_one(name):
    with pytest.raises(ConfigError, match=r"must be package\.module:Class"):
        CustomRouter(name)


def test_it_is_named_in_one_word_or_in_a_table():
    config = io.override(run("switch_demo"), {"model.moe.router": "mine:Nearest"})
    assert config.model.moe.router == CustomRouter("mine:Nearest")
    options = {"model.moe.router": "mine:Nearest", "model.moe.router.options.heat": "0.5"}
    config = io.override(run("switch_demo"), options)
    assert config.model.moe.router.options == {"heat": 0.5}
    assert io.parse_toml(io.dump_toml(config)) == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"a": [1]}, r"options.a = \[1\]: must be a number, a string, true or false"),
        (3, "options = 3: must be a table"),
    ],
)
def test_options_are_scalars(options, message):
    table = {"kind": "custom", "target": "mine:Nearest", "options": options}
    with pytest.raises(ConfigError, match=message):
        io.from_dict(RouterConfig, table)
