"""Classes and functions of the user's own, named ``package.module:name``.

A name is honoured from the command line or the user's own TOML, never from a checkpoint or its
configuration. Modules of the working folder are found, as ``python -m`` finds them.
"""

import sys
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from turnout.cli.arguments import Parser
from turnout.config.errors import UserError
from turnout.config.moe import MoEConfig
from turnout.config.routers import CustomRouter


def named(option: str, name: str, what: str) -> Any:
    """The object that ``name`` leads to.

    Args:
        option: how it was given, for messages: ``--hook``.
        what: what it should be.

    Raises:
        UserError: the name is not of that form, or leads nowhere.
    """
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise UserError(f"{option} {name}: must be package.module:{what}")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = import_module(module)
    except ImportError as error:
        raise UserError(f"{option} {name}: cannot import {module}: {error}") from error
    try:
        return getattr(found, attribute)
    except AttributeError:
        raise UserError(f"{option} {name}: {module} has no {what} {attribute!r}") from None


def trust(targets: Iterable[str]) -> None:
    """Imports routers of the user's own, so that configurations can name them.

    Raises:
        UserError: a name leads to no router class.
    """
    targets = list(targets)
    if targets:
        from turnout.moe.routers.custom import register_router

        for target in targets:
            register_router(target, named("router", target, "Class"))


def trust_own(moe: MoEConfig | None) -> None:
    """Imports the routers that a configuration of the user's names."""
    routers = [] if moe is None else [moe.router, moe.decoder_router]
    trust(router.target for router in routers if isinstance(router, CustomRouter))


def add_trust(parser: Parser) -> None:
    """The option that lets a checkpoint's router be imported."""
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="MODULE:CLASS",
        help="a router class of yours that the run names; may be given again",
    )
