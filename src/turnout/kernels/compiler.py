"""A source in C++ as a shared library in the user's cache, built there once.

The library has the name of what it was made of, source and options, so that another version builds
its own. It takes its threads from the OpenMP library that PyTorch has loaded: a second one would
fight with it for the cores.
"""

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from filelock import FileLock

from turnout.config.cache import cache_folder
from turnout.config.errors import UserError

OPTIONS = ("-std=c++17", "-O3", "-fPIC", "-fopenmp", "-fvisibility=hidden", "-w")
PATIENCE = 300.0  # seconds for a compiler that has seconds of work


@dataclass(frozen=True)
class Source:
    """A file of C++, with the headers beside it, and what its processor must have.

    Attributes:
        options: of the compiler, beside ``OPTIONS``.
        torch: whether it uses PyTorch's stable interface.
    """

    path: Path
    options: tuple[str, ...] = ()
    torch: bool = False

    def with_options(self, options: tuple[str, ...]) -> "Source":
        """The same with these."""
        return replace(self, options=options)

    @property
    def built(self) -> Path:
        """Where its library is, or would be."""
        files = (self.path, *sorted(self.path.parent.glob("*.h")))
        linked = (torch.__version__,) if self.torch else ()
        parts = (*(each.read_text("utf-8") for each in files), *OPTIONS, *self.options, *linked)
        made_of = "\0".join(parts)
        digest = hashlib.sha256(made_of.encode()).hexdigest()[:16]
        return cache_folder() / "kernels" / f"{self.path.stem}-{digest}.so"

    def build(self) -> Path:
        """Its library, built unless it is there; others that want it wait meanwhile.

        Raises:
            UserError: there is no compiler, or it failed; with its first line, and nothing written.
        """
        target = self.built
        if target.exists():
            return target
        compiler = _compiler()
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(target.with_suffix(".lock"), timeout=PATIENCE):
                if not target.exists():
                    _compile(compiler, self, target)
        except OSError as error:
            raise UserError(
                f"{target.parent}: {error.strerror or error}; see XDG_CACHE_HOME"
            ) from None
        return target


def _compiler() -> list[str]:
    """``$CXX``, or the first of the usual names.

    Raises:
        UserError: there is none.
    """
    named = shlex.split(os.environ.get("CXX", ""))
    for candidate in (named,) if named else (["g++"], ["clang++"]):
        if shutil.which(candidate[0]):
            return candidate
    looked = named[0] if named else "g++, clang++"
    raise UserError(f"no C++ compiler ({looked}): install one, or name it in CXX")


def _compile(compiler: list[str], source: Source, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        compiled, linked = Path(folder, "part.o"), Path(folder, "part.so")
        home = Path(torch.__file__).parent
        include = ["-I", str(home / "include")] if source.torch else []
        link = ["-L", str(home / "lib"), "-ltorch_cpu", "-ltorch"] if source.torch else []
        options = [*OPTIONS, *source.options, *include]
        _call([*compiler, *options, "-c", str(source.path), "-o", str(compiled)])
        # Without -fopenmp: it would bring its own library in.
        _call([*compiler, "-shared", str(compiled), "-o", str(linked), *link])
        linked.replace(target)


def _call(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=PATIENCE
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]}: not done after {PATIENCE:.0f} seconds") from None
    if done.returncode:
        said = next((line for line in done.stderr.splitlines() if "error:" in line), "")
        said = said or done.stderr.strip().partition("\n")[0] or f"status {done.returncode}"
        raise UserError(f"{command[0]}: {said}; another compiler can be named in CXX")
