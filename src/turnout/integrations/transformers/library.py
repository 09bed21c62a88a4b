"""What is used of the library transformers, and one line where a version lacks it."""

import inspect
from importlib import import_module
from typing import Any

from turnout.config.errors import UserError

FLAGS = frozenset({"is_transposed", "has_bias", "has_gate", "has_post_expert_norm"})
INSTALL = "install one that has it: pip install 'transformers>=5.23'"


def experts_interface() -> Any:
    """The table of expert implementations that models look names up in.

    Raises:
        UserError: transformers is missing, or has no such table, or its experts do not say how
            their weights are laid out.
    """
    version = _version()
    try:
        module: Any = import_module("transformers.integrations.moe")
        interface, mark = module.ALL_EXPERTS_FUNCTIONS, module.use_experts_implementation
    except (ImportError, AttributeError) as error:
        raise UserError(f"transformers {version}: has no experts interface; {INSTALL}") from error
    missing = sorted(FLAGS - inspect.signature(mark).parameters.keys())
    if missing:
        lacks = ", ".join(missing)
        raise UserError(f"transformers {version}: its experts do not say {lacks}; {INSTALL}")
    return interface


def _version() -> str:
    try:
        return str(import_module("transformers").__version__)
    except ImportError as error:
        raise UserError(
            "transformers is not installed: pip install 'turnout[transformers]'"
        ) from error
