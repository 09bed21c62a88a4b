"""Hooks of the user's own, named on the command line."""

from pathlib import Path

import pytest

from turnout.cli.trackers import load_hook
from turnout.config.errors import UserError
from turnout.train.hooks.tensorboard import TensorBoard


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nonsense", "must be package.module:factory"),
        ("no_such_package:make", "cannot import no_such_package"),
        ("json:no_such", "json has no factory 'no_such'"),
        ("builtins:str", "gave str, must give a turnout.Hook"),
    ],
)
def test_a_hook_that_is_none_is_refused(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^--hook {name}: .*{message}"):
        load_hook(name, tmp_path)


def test_a_hook_of_the_users_own(tmp_path: Path) -> None:
    hook = load_hook("turnout.train.hooks.tensorboard:TensorBoard", tmp_path)
    assert isinstance(hook, TensorBoard)
