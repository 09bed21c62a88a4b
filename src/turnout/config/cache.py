"""Where prepared text is kept between runs."""

import os
from pathlib import Path


def cache_folder(configured: str = "") -> Path:
    """``data.cache`` where it is given, else ``turnout`` in the user's folder for caches.

    That folder is ``$XDG_CACHE_HOME``, or ``~/.cache`` where the variable is not an absolute path
    (XDG Base Directory Specification 0.8).
    """
    if configured:
        return Path(configured).expanduser().absolute()
    named = os.environ.get("XDG_CACHE_HOME", "")
    home = Path(named) if os.path.isabs(named) else Path.home() / ".cache"
    return home / "turnout"
