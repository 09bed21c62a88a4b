"""Read packages without unpacking them: members stream through memory, and nothing else is made.

Since no file is written, a link cannot lead out and a device cannot be made; names that would
matter to somebody who unpacks the package are refused all the same, as a sign of a bad package.
"""

import gzip
import io
import lzma
import subprocess
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from turnout.data.fetch.errors import PackageError
from turnout.data.fetch.tools import Tools

_AR_MAGIC = b"!<arch>\n"
_AR_HEADER = 60
_CHUNK = 1 << 16
_XZ_MEMORY = 256 * 2**20


@dataclass(frozen=True)
class Limits:
    """Above these a package is refused; the largest known one has a third of the bytes."""

    members: int = 150_000
    total_bytes: int = 2 * 2**30
    member_bytes: int = 64 * 2**20


_Read = Callable[[int], bytes]


def members(
    path: Path,
    package: str,
    wanted: Callable[[str], bool],
    tools: Tools,
    limits: Limits | None = None,
) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the plain files that are wanted, in the archive's order.

    Args:
        path: a ``.deb`` or an npm ``.tgz``.
        package: for messages.
        wanted: asked with names without a leading ``./``.
        tools: ``dpkg-deb`` is used for what Python cannot decompress.

    Raises:
        PackageError: damaged, truncated, too large, or with names that lead out of it.
    """
    bounds = limits or Limits()
    try:
        with _tar(path, package, tools, bounds) as tar:
            yield from _read(tar, package, wanted, bounds)
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, gzip.BadGzipFile) as error:
        reason = f"the archive is damaged ({error}); delete it to fetch it again: {path}"
        raise PackageError(package, reason) from error


@contextmanager
def _tar(path: Path, package: str, tools: Tools, limits: Limits) -> Iterator[tarfile.TarFile]:
    with _stream(path, package, tools) as read:
        counted = _Counted(read, package, limits.total_bytes)
        with tarfile.open(fileobj=counted, mode="r|", bufsize=_CHUNK) as tar:  # type: ignore[call-overload]
            yield tar


@contextmanager
def _stream(path: Path, package: str, tools: Tools) -> Iterator[_Read]:
    """The uncompressed tar inside a package."""
    if path.suffix != ".deb":
        with gzip.open(path, "rb") as plain:
            yield plain.read
        return
    name, data = _ar_data(path, package)
    if name == "data.tar":
        yield io.BytesIO(data).read
    elif name == "data.tar.gz":
        yield gzip.GzipFile(fileobj=io.BytesIO(data)).read
    elif name == "data.tar.xz":
        yield _Xz(data).read
    else:
        with _by_dpkg(path, package, tools) as plain:
            yield plain


def _ar_data(path: Path, package: str) -> tuple[str, bytes]:
    """The name and bytes of the member of a ``.deb`` that holds the files."""
    with path.open("rb") as file:
        if file.read(len(_AR_MAGIC)) != _AR_MAGIC:
            raise PackageError(package, f"{path.name} is no Debian package")
        while header := file.read(_AR_HEADER):
            size = header[48:58].strip()
            if len(header) < _AR_HEADER or header[58:] != b"`\n" or not size.isdigit():
                raise EOFError("a header of the ar archive is cut or wrong")
            name = header[:16].decode(errors="replace").strip().rstrip("/")
            if name.startswith("data.tar"):
                data = file.read(int(size))
                if len(data) < int(size):
                    raise EOFError("the ar archive is cut")
                return name, data
            file.seek(int(size) + int(size) % 2, io.SEEK_CUR)
    raise PackageError(package, f"{path.name} holds no data.tar")


@contextmanager
def _by_dpkg(path: Path, package: str, tools: Tools) -> Iterator[_Read]:
    """Ubuntu compresses by zstd, which dpkg-deb reads and Python 3.11 does not."""
    program = tools.find("dpkg-deb")
    if program is None:
        raise PackageError(package, "its compression needs dpkg-deb, which is not installed")
    command = [program, "--fsys-tarfile", str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        if process.stdout is None:
            raise PackageError(package, "dpkg-deb gave no output")
        try:
            yield process.stdout.read
        finally:
            process.kill()


def _read(
    tar: tarfile.TarFile, package: str, wanted: Callable[[str], bool], limits: Limits
) -> Iterator[tuple[str, bytes]]:
    for number, member in enumerate(tar):
        if number >= limits.members:
            raise PackageError(package, f"refused: more than {limits.members:,} members")
        name = member.name.removeprefix("./")
        _refuse(package, member, name)
        if not member.isreg() or not wanted(name):
            continue
        if member.size > limits.member_bytes:
            raise PackageError(package, f"refused: {name} has {member.size:,} bytes")
        file = tar.extractfile(member)
        if file is not None:
            content = file.read()
            if len(content) < member.size:
                raise EOFError(f"{name} is cut")
            yield name, content


def _refuse(package: str, member: tarfile.TarInfo, name: str) -> None:
    if name.startswith("/") or ".." in name.split("/") or "\\" in name or "\0" in name:
        raise PackageError(package, f"refused: the name {name!r} leads out of the package")
    if member.isdev():
        raise PackageError(package, f"refused: {name!r} is a device or a pipe")


class _Counted:
    """Counts what is read, so that an archive which inflates without end is stopped."""

    def __init__(self, read: _Read, package: str, limit: int) -> None:
        self._read, self._package = read, package
        self._left, self._limit = limit, limit

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes."""
        data = self._read(size)
        self._left -= len(data)
        if self._left < 0:
            reason = f"refused: it unpacks to more than {self._limit / 2**20:,.0f} MiB"
            raise PackageError(self._package, reason)
        return data


class _Xz:
    """An xz stream with a bound on the decoder's memory."""

    def __init__(self, data: bytes) -> None:
        self._rest = memoryview(data)
        self._decoder = lzma.LZMADecompressor(memlimit=_XZ_MEMORY)

    def read(self, size: int) -> bytes:
        """``size`` bytes, fewer at the end; raises EOFError where the stream is cut."""
        parts: list[bytes] = []
        left = size
        while left and not self._decoder.eof:
            chunk = b""
            if self._decoder.needs_input:
                if not self._rest:
                    raise EOFError("the xz stream is cut")
                chunk, self._rest = bytes(self._rest[:_CHUNK]), self._rest[_CHUNK:]
            part = self._decoder.decompress(chunk, left)
            parts.append(part)
            left -= len(part)
        return b"".join(parts)
