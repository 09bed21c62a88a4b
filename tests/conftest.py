"""Settings every test runs under."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci")

# tests/test_compiled.py runs these in a process of its own; naming the folder collects them.
collect_ignore = ["compiled"]


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test touches the user's own cache, neither here nor in a process it starts."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def no_kernels_by_themselves() -> Iterator[None]:
    """``auto`` takes no kernel because the user, or another test, has built it."""
    from turnout.kernels.grouped import GROUPED
    from turnout.kernels.operators import FEW_ROWS

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GROUPED, "preferred", frozenset())
        patch.setattr(FEW_ROWS, "preferred", frozenset())
        yield


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve files of Python, each of forty short functions."""
    folder = tmp_path_factory.mktemp("text")
    for number in range(12):
        lines = [f"def f{number}_{i}(x):\n    return x + {i * number}\n" for i in range(40)]
        (folder / f"{number:02d}.py").write_text("\n".join(lines))
    return folder


@pytest.fixture
def usual_interrupt() -> Iterator[None]:
    """SIGINT as a terminal leaves it: what runs in the background of a shell, and all that it
    starts, ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
