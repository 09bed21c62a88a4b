"""What the package managers of this machine offer of a corpus, and what is left out and why."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from turnout.data.fetch.corpora import Corpus, Package, Source
from turnout.data.fetch.tools import Tools

_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_VERSION = re.compile(r"[0-9A-Za-z.+:~-]+")
_INSTALL = {
    "apt": "apt-get and apt-cache come with Debian and Ubuntu",
    "npm": "install it with `apt-get install npm` or from your system's package manager",
}
_REFUSED = "--without names it"
_PROGRAMS = {"apt": ("apt-get", "apt-cache"), "npm": ("npm",)}


@dataclass(frozen=True)
class Offer:
    """A package as it can be had now.

    Attributes:
        package: what was asked for.
        name: the package's name.
        version: its version.
        sha256: what its archive must hash to.
        size: bytes of the archive.
        origin: for the manifest: the file in the archive's pool, or npm's name and version.
    """

    package: Package
    name: str
    version: str
    sha256: str
    size: int
    origin: str


@dataclass(frozen=True)
class LeftOut:
    """A source that cannot be had here, and why."""

    source: str
    why: str


@dataclass(frozen=True)
class Plan:
    """A corpus as this machine can have it.

    Attributes:
        items: sources and the packages they come from.
        left_out: the other sources.
        notes: one line for each reason.
    """

    items: tuple[tuple[Source, Offer], ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]

    @property
    def refused(self) -> frozenset[str]:
        """Sources that ``--without`` names: what is made of them is not to stay."""
        return frozenset(one.source for one in self.left_out if one.why == _REFUSED)

    @property
    def offers(self) -> tuple[Offer, ...]:
        """Every package once."""
        return tuple(dict.fromkeys(offer for _, offer in self.items))


def plan(corpus: Corpus, tools: Tools, without: frozenset[str] = frozenset()) -> Plan:
    """Ask apt and npm what they offer; nothing is downloaded."""
    missing = {
        manager: next((name for name in programs if tools.find(name) is None), "")
        for manager, programs in _PROGRAMS.items()
    }
    found = _apt_offers(_packages(corpus, "apt"), tools) if not missing["apt"] else {}
    if not missing["npm"]:
        found |= {package: _pinned(package) for package in _packages(corpus, "npm")}
    items: list[tuple[Source, Offer]] = []
    left: list[LeftOut] = []
    for source in corpus.sources:
        offer = found.get(source.package)
        why = _why(source, offer, missing[source.package.manager], left, without)
        if why or offer is None:
            left.append(LeftOut(source.name, why))
        else:
            items.append((source, offer))
    apt = any(offer.package.manager == "apt" for _, offer in items)
    return Plan(tuple(items), tuple(left), tuple(_notes(left, items, missing, apt)))


def _packages(corpus: Corpus, manager: str) -> list[Package]:
    return [package for package in corpus.packages if package.manager == manager]


def _why(
    source: Source,
    offer: Offer | None,
    missing: str,
    left: Iterable[LeftOut],
    without: frozenset[str],
) -> str:
    if source.name in without:
        return _REFUSED
    if missing:
        return _not_installed(missing)
    if offer is None:
        return f"{source.package.manager} offers no {source.package.title}"
    needed = source.without_lines_of
    if needed in {one.source for one in left}:
        return f"{needed}, which tells its untranslated lines, is left out"
    return ""


def _not_installed(program: str) -> str:
    return f"{program} is not installed"


def _notes(
    left: list[LeftOut],
    items: list[tuple[Source, Offer]],
    missing: Mapping[str, str],
    apt_offers: bool,
) -> list[str]:
    """One line a reason, with the remedy and what can be had all the same."""
    reasons: dict[str, list[str]] = {}
    for one in left:
        reasons.setdefault(one.why, []).append(one.source)
    rest = f"; the other {len(items)} can be had" if items else ""
    notes = []
    for why, names in reasons.items():
        fix = "".join(
            f" ({_INSTALL[manager]})"
            for manager, program in missing.items()
            if program and why == _not_installed(program)
        )
        if why.startswith("apt offers no") and not apt_offers:
            fix = " (`apt-get update` fetches the lists of packages)"
        notes.append(f"left out, since {why}{fix}: {', '.join(names)}{rest}")
    return notes


def _pinned(package: Package) -> Offer:
    spec = f"{package.name}@{package.version}"
    return Offer(package, package.name, package.version, package.sha256, package.size, spec)


def _apt_offers(packages: list[Package], tools: Tools) -> dict[Package, Offer]:
    """Names by pattern from ``apt-cache pkgnames``, versions and hashes from ``apt-cache show``."""
    known = [name for name in tools.run("apt-cache", "pkgnames").out.split() if _NAME.match(name)]
    names = {
        package: [name for name in known if re.fullmatch(package.name, name)]
        for package in packages
    }
    wanted = sorted({name for some in names.values() for name in some})
    if not wanted:
        return {}
    shown = tools.run("apt-cache", "show", "--no-all-versions", *wanted)
    records = {record.get("Package", ""): record for record in _records(shown.out)}
    offers = {}
    for package, candidates in names.items():
        for name in sorted(candidates, key=_newest, reverse=True):
            offer = _from_record(package, records.get(name, {}))
            if offer is not None:
                offers[package] = offer
                break
    return offers


def _from_record(package: Package, record: Mapping[str, str]) -> Offer | None:
    """An offer, where apt gives a version, a size and a SHA-256 that look like such."""
    version, sha256 = record.get("Version", ""), record.get("SHA256", "").lower()
    size = record.get("Size", "")
    if not (_VERSION.fullmatch(version) and _SHA256.fullmatch(sha256) and size.isdigit()):
        return None
    origin = record.get("Filename", "")
    return Offer(package, record["Package"], version, sha256, int(size), origin)


def _records(text: str) -> list[dict[str, str]]:
    """The paragraphs of ``Field: value`` lines; continued lines are not needed."""
    return [
        dict(line.split(": ", 1) for line in paragraph.split("\n") if re.match(r"\S+: ", line))
        for paragraph in text.split("\n\n")
    ]


def _newest(name: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", name))
