"""Routers of users: a class of theirs, registered under the name that a configuration gives."""

import inspect
from collections.abc import Callable

from turnout.config.errors import ConfigError, UserError
from turnout.config.routers import CustomRouter
from turnout.moe.routers.base import Router, RouterShape, build_router

_CLASSES: dict[str, Callable[..., Router]] = {}


def register_router(target: str, router: object) -> None:
    """Makes ``router`` what a configuration means by ``target`` (``module:Class``).

    Args:
        router: a subclass of Router; called with a RouterShape and the configured options.

    Raises:
        UserError: it is none, or lacks a method.
    """
    if not (inspect.isclass(router) and issubclass(router, Router)):
        raise UserError(f"router {target}: must be a class that inherits from turnout.Router")
    missing = sorted(getattr(router, "__abstractmethods__", ()))
    if missing:
        raise UserError(f"router {target}: lacks the method {', '.join(missing)}")
    _CLASSES[target] = router


@build_router.register
def _(config: CustomRouter, shape: RouterShape) -> Router:
    target = config.target
    if target not in _CLASSES:
        raise UserError(
            f"router.target = {target!r}: is not imported, since a name in a checkpoint is not "
            f"enough; add --trust {target} to the command, or call turnout.register_router"
        )
    try:
        router = _CLASSES[target](shape, **config.options)
    except TypeError as error:
        raise UserError(f"router {target}: cannot be built from its options: {error}") from error
    _check(config, router, shape)
    return router


def _check(config: CustomRouter, router: Router, shape: RouterShape) -> None:
    """What was counted before the class was there must be what it is."""
    if (router.choices, router.active) != (config.k, config.k):
        found = f"{router.choices}, of which {router.active} compute"
        raise ConfigError("router.k", config.k, f"what the class says: {found}")
    parameters = sum(parameter.numel() for parameter in router.parameters())
    if parameters != config.num_params(shape.d_model, shape.num_experts):
        raise ConfigError(
            "router.parameters",
            "none" if config.parameters is None else config.parameters,
            f"{parameters}, as {config.target} has",
            f"set model.moe.router.parameters = {parameters}",
        )
