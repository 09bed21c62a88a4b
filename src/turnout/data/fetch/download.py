"""Download a package with its manager, and check its SHA-256 before anything reads it."""

import hashlib
import re
import shutil
from contextlib import suppress
from pathlib import Path

from turnout.data.fetch.errors import PackageError
from turnout.data.fetch.offers import Offer
from turnout.data.fetch.progress import Progress
from turnout.data.fetch.tools import Finished, Tools

_APT_TIMEOUT = ("-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=30")
_NPM_TIMEOUT = ("--loglevel=error", "--fetch-retries=1", "--fetch-retry-maxtimeout=5000")
_COMPLAINT = re.compile(r"^(?:E:|npm error|npm ERR!)\s*(?:code )?(.+)$", re.MULTILINE)
_CHUNK = 1 << 20


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def download(offer: Offer, folder: Path, tools: Tools, progress: Progress) -> tuple[Path, int]:
    """The verified archive of a package in ``folder``, and how many bytes had to be fetched.

    One that is there already and has the right hash is not fetched again. The manager writes into
    a folder of its own, and the archive gets its name only after the hash was compared, so that
    an interruption at any moment leaves nothing that could be taken for a package.

    Raises:
        PackageError: the manager failed, or what it brought has another hash.
    """
    suffix = ".deb" if offer.package.manager == "apt" else ".tgz"
    target = folder / f"{re.sub('[^a-z0-9.+-]', '_', offer.name)}-{offer.sha256[:16]}{suffix}"
    if target.is_file():
        if sha256_of(target) == offer.sha256:
            return target, 0
        progress.say(f"{offer.name}: the file of an earlier run is damaged and is fetched again")
        target.unlink()
    part = folder / "part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    progress.begin(f"{offer.name} {offer.version}", offer.size)
    done = _ask(offer, part, tools, progress)
    archives = sorted(part.glob(f"*{suffix}"))
    if done.code or len(archives) != 1:
        raise PackageError(offer.name, f"{offer.package.manager} failed: {_complaint(done)}")
    found = sha256_of(archives[0])
    if found != offer.sha256:
        shutil.rmtree(part)
        raise PackageError(
            offer.name,
            f"refused: its SHA-256 is {found[:16]}.. and not {offer.sha256[:16]}.., which "
            f"{_promised(offer)}",
        )
    archives[0].replace(target)
    shutil.rmtree(part)
    return target, offer.size


def _ask(offer: Offer, part: Path, tools: Tools, progress: Progress) -> Finished:
    def watch() -> None:
        # The manager renames its files meanwhile: one that has gone is a display a moment late.
        with suppress(FileNotFoundError):
            progress.update(sum(file.stat().st_size for file in part.iterdir()))

    words: tuple[str, ...]
    if offer.package.manager == "apt":
        words = ("apt-get", "download", *_APT_TIMEOUT, f"{offer.name}={offer.version}")
    else:
        words = ("npm", "pack", "--ignore-scripts", *_NPM_TIMEOUT, offer.origin)
    return tools.run(*words, folder=part, watch=watch)


def _promised(offer: Offer) -> str:
    return "apt's lists promise" if offer.package.manager == "apt" else "is pinned for this version"


def _complaint(done: Finished) -> str:
    """The program's own words, in one line."""
    said = _COMPLAINT.findall(done.err) or done.err.strip().splitlines()[-1:] or ["no file came"]
    hint = ""
    if "404" in done.err:
        hint = "; `apt-get update` may know a newer version"
    return " ".join(said[0].split())[:200] + hint
