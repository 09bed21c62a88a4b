"""Packages are read through memory, and hostile ones are refused by name."""

import gzip
import lzma
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.fetch.packages import Shop, ar, deb, files, info, tar, tgz

from turnout.data.fetch.archive import Limits, members
from turnout.data.fetch.errors import PackageError
from turnout.data.fetch.tools import Tools

GOOD = {"./usr/share/a.txt": "first", "./usr/share/b.txt": "second", "./usr/c.bin": "third"}
NO_TOOLS = Tools("", {})


def read(path: Path, limits: Limits | None = None, tools: Tools = NO_TOOLS) -> dict[str, bytes]:
    return dict(members(path, "thing", lambda name: name.endswith(".txt"), tools, limits))


def packed(tmp_path: Path, content: bytes, name: str = "thing.deb") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("compression", ["xz", "gz", ""])
def test_wanted_files_of_a_debian_package(tmp_path: Path, compression: str) -> None:
    found = read(packed(tmp_path, deb(files(GOOD), compression)))
    assert found == {"usr/share/a.txt": b"first", "usr/share/b.txt": b"second"}


def test_wanted_files_of_an_npm_package(tmp_path: Path) -> None:
    path = packed(tmp_path, tgz({"package/a.txt": "first", "package/b.js": "no"}), "a.tgz")
    assert read(path) == {"package/a.txt": b"first"}


def test_what_python_cannot_decompress_goes_through_dpkg(tmp_path: Path) -> None:
    path = packed(tmp_path, deb(files(GOOD), "zst"))
    with pytest.raises(PackageError, match="thing: its compression needs dpkg-deb"):
        read(path)
    shop = Shop(tmp_path)
    (tmp_path / "plain.tar").write_bytes(files(GOOD))
    shop.program("dpkg-deb", '[ "$1" = --fsys-tarfile ] && /bin/cat "$shop/plain.tar"')
    assert len(read(path, tools=shop.tools)) == 2


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (info("../up.txt", b"x"), "leads out"),
        (info("usr/../../up.txt", b"x"), "leads out"),
        (info("/etc/passwd.txt", b"x"), "leads out"),
        (info(".//etc/passwd.txt", b"x"), "leads out"),
        (info("usr\\..\\up.txt", b"x"), "leads out"),
        (info("dev/sda.txt", kind=tarfile.BLKTYPE), "device"),
        (info("dev/null.txt", kind=tarfile.CHRTYPE), "device"),
        (info("pipe.txt", kind=tarfile.FIFOTYPE), "device"),
    ],
)
def test_names_and_kinds_that_are_refused(tmp_path: Path, member: tuple, reason: str) -> None:
    path = packed(tmp_path, deb(tar([info("a.txt", b"good"), member])))
    with pytest.raises(PackageError, match=f"thing: refused: .*{reason}"):
        read(path)


def test_links_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    links = [
        info("a.txt", kind=tarfile.SYMTYPE, link=str(secret)),
        info("b.txt", kind=tarfile.SYMTYPE, link="../../../../etc/passwd"),
        info("c.txt", kind=tarfile.LNKTYPE, link=str(secret)),
        info("d.txt", b"plain"),
    ]
    assert read(packed(tmp_path, deb(tar(links)))) == {"d.txt": b"plain"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret.txt", "thing.deb"]


@pytest.mark.parametrize("name", ["zeros.bin", "zeros.txt"])
@pytest.mark.parametrize("pack", [lzma.compress, gzip.compress])
def test_a_bomb_is_stopped_whether_or_not_it_is_wanted(tmp_path: Path, name: str, pack) -> None:
    data = tar([info(name, bytes(3 << 20))])
    suffix = "xz" if pack is lzma.compress else "gz"
    content = ar({"debian-binary": b"2.0\n", f"data.tar.{suffix}": pack(data)})
    assert len(content) < 1 << 15
    path = packed(tmp_path, content)
    assert read(path).keys() == {name} & {"zeros.txt"}
    with pytest.raises(PackageError, match="unpacks to more than 1 MiB"):
        read(path, Limits(total_bytes=1 << 20))


def test_too_many_and_too_large_members(tmp_path: Path) -> None:
    path = packed(tmp_path, deb(files(GOOD)))
    assert len(read(path, Limits(members=3, member_bytes=6))) == 2
    with pytest.raises(PackageError, match="more than 2 members"):
        read(path, Limits(members=2))
    with pytest.raises(PackageError, match=r"usr/share/b\.txt has 6 bytes"):
        read(path, Limits(member_bytes=5))


@pytest.mark.parametrize("compression", ["xz", "gz", ""])
def test_every_truncation_is_one_error(tmp_path: Path, compression: str) -> None:
    whole = deb(files(GOOD), compression)
    for size in range(0, len(whole) - 1, max(7, len(whole) // 60)):
        with pytest.raises(PackageError, match="thing: "):
            read(packed(tmp_path, whole[:size]))


def test_a_stream_that_was_cut_before_it_was_packed(tmp_path: Path) -> None:
    cut = lzma.compress(files(GOOD))[:-30]
    with pytest.raises(PackageError, match="thing: the archive is damaged"):
        read(packed(tmp_path, ar({"data.tar.xz": cut})))
    small = tgz({"package/a.txt": "first"})
    for size in range(len(small)):
        with pytest.raises(PackageError, match="thing: the archive is damaged"):
            read(packed(tmp_path, small[:size], "a.tgz"))


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0), bit=st.integers(0, 7))
def test_a_flipped_bit_is_an_error_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, place: int, bit: int
) -> None:
    """xz has checksums of its own; the hash of the whole package is checked before, anyway."""
    content = bytearray(deb(files(GOOD)))
    content[place % len(content)] ^= 1 << bit
    path = packed(tmp_path_factory.mktemp("flip"), bytes(content))
    try:
        found = read(path)
    except PackageError:
        return
    assert found == {"usr/share/a.txt": b"first", "usr/share/b.txt": b"second"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "no Debian package"), (b"PK\x03\x04", "no Debian package"), (ar({}), "no data.tar")],
)
def test_other_files(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(PackageError, match=reason):
        read(packed(tmp_path, content))
