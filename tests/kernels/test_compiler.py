"""Building a library once: kept, shared, and refused in one line where it cannot be done."""

import ctypes
import sys
import threading
from pathlib import Path

import pytest

from turnout.config.errors import UserError
from turnout.kernels import compiler
from turnout.kernels.compiler import Source

ADDS = 'extern "C" __attribute__((visibility("default"))) int add(int a, int b) { return a + b; }\n'


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "adds.cpp"
    path.write_text(ADDS)
    return Source(path, ())


def left(source):
    """The files in the cache but for locks."""
    folder = source.built.parent
    return [p.name for p in folder.iterdir() if p.suffix != ".lock"] if folder.exists() else []


def false_compiler(tmp_path, monkeypatch, body):
    program = tmp_path / "compiler"
    program.write_text(f"#!{sys.executable}\nimport sys\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("CXX", str(program))


def test_it_is_built_and_works(source):
    assert not source.built.exists()
    assert ctypes.CDLL(str(source.build())).add(2, 3) == 5
    assert left(source) == [source.built.name]


def test_it_is_built_once(source, tmp_path, monkeypatch):
    built = source.build()
    false_compiler(tmp_path, monkeypatch, "sys.exit('called again')")
    assert source.build() == built


def test_another_source_and_other_options_are_another_library(source):
    first = source.built
    assert Source(source.path, ("-DX",)).built != first
    (source.path.parent / "more.h").write_text("// a header")
    second = source.built
    source.path.write_text(ADDS.replace("a + b", "a - b"))
    assert len({first, second, source.built}) == 3


def test_who_comes_at_the_same_time_waits(source, tmp_path, monkeypatch):
    """Four at once: the compiler is called twice, to compile and to link."""
    calls = tmp_path / "calls"
    false_compiler(
        tmp_path,
        monkeypatch,
        f"import time\nopen({str(calls)!r}, 'a').write('x')\ntime.sleep(0.2)\n"
        "open(sys.argv[-1], 'w').write('library')",
    )
    found = []
    waiting = [threading.Thread(target=lambda: found.append(source.build())) for _ in range(4)]
    for each in waiting:
        each.start()
    for each in waiting:
        each.join()
    assert found == [source.built] * 4
    assert calls.read_text() == "xx"


def test_an_error_of_the_compiler_is_one_line_and_leaves_nothing(source):
    source.path.write_text("int f() { return nothing; }\n")
    with pytest.raises(UserError, match=r"error.*nothing.*another .* named in CXX$") as caught:
        source.build()
    assert "\n" not in str(caught.value)
    assert left(source) == []


def test_a_compiler_that_says_nothing(source, tmp_path, monkeypatch):
    false_compiler(tmp_path, monkeypatch, "sys.exit(3)")
    with pytest.raises(UserError, match="status 3"):
        source.build()


def test_a_compiler_that_never_ends(source, tmp_path, monkeypatch):
    false_compiler(tmp_path, monkeypatch, "import time\ntime.sleep(60)")
    monkeypatch.setattr(compiler, "PATIENCE", 0.5)
    with pytest.raises(UserError, match="not done after"):
        source.build()
    assert left(source) == []


def test_no_compiler(source, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    with pytest.raises(UserError, match=r"no C\+\+ compiler \(no-such-compiler\): install one"):
        source.build()
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"\(g\+\+, clang\+\+\)"):
        source.build()


def test_a_cache_that_is_a_file(source, tmp_path):
    Path(tmp_path / "cache").write_text("in the way")
    with pytest.raises(UserError, match="see XDG_CACHE_HOME"):
        source.build()
