"""Hooks of the user's own, named ``package.module:factory`` on the command line.

The one entry point for other trackers. A name is honoured from the command line alone, never
from a checkpoint or its configuration.
"""

from importlib import import_module
from pathlib import Path

from turnout.config.errors import UserError
from turnout.train.hooks.base import Hook


def load_hook(name: str, run: Path) -> Hook:
    """The hook that ``factory(run_folder)`` returns.

    Raises:
        UserError: the name is not of that form, or leads to no hook.
    """
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise UserError(f"--hook {name}: must be package.module:factory")
    try:
        found = import_module(module)
    except ImportError as error:
        raise UserError(f"--hook {name}: cannot import {module}: {error}") from error
    factory = getattr(found, attribute, None)
    if not callable(factory):
        raise UserError(f"--hook {name}: {module} has no factory {attribute!r}")
    hook = factory(run)
    if not isinstance(hook, Hook):
        raise UserError(
            f"--hook {name}: gave {type(hook).__name__}, must give a turnout.Hook; see "
            "docs/training.md"
        )
    return hook
