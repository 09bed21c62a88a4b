"""Hooks of the user's own, named ``package.module:factory`` on the command line.

The one entry point for other trackers. A name is honoured from the command line alone, never
from a checkpoint or its configuration.
"""

from pathlib import Path

from turnout.cli.user_code import named
from turnout.config.errors import UserError
from turnout.train.hooks.base import Hook


def load_hook(name: str, run: Path) -> Hook:
    """The hook that ``factory(run_folder)`` returns.

    Raises:
        UserError: the name is not of that form, or leads to no hook.
    """
    factory = named("--hook", name, "factory")
    if not callable(factory):
        raise UserError(f"--hook {name}: is no factory, which takes the run's folder")
    hook = factory(run)
    if not isinstance(hook, Hook):
        raise UserError(
            f"--hook {name}: gave {type(hook).__name__}, must give a turnout.Hook; see "
            "docs/training.md"
        )
    return hook
