"""Small texts in the formats of the packages, and a shop that sells them.

Nothing is from the real packages: the lands, words and mails are made up on the spot.
"""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from string import ascii_lowercase

from tests.data.fetch.packages import Shop, deb, files, sha256, tgz

from turnout.data.fetch.corpora import Package
from turnout.data.fetch.tasks.catalogue import TASK_SETS, TaskSet
from turnout.data.fetch.tasks.questions import Sources

ROLES = ("painter", "poet", "king", "pilot", "sailor")
WHOLES = ("engine", "house", "ship", "theatre", "castle")
CONTINENTS = {"AF": "Africa", "AS": "Asia", "EU": "Europe", "OC": "Oceania"}


def letters(count: int, stem: str) -> list[str]:
    """``stemaa``, ``stemab``, .."""
    both = ("".join(two) for two in product(ascii_lowercase, repeat=2))
    return [stem + end for end, _ in zip(both, range(count), strict=False)]


class Lines:
    """Lines of a data file of WordNet, whose offsets count up."""

    def __init__(self, kind: str, first: int = 0) -> None:
        self.kind, self.lines, self._next = kind, ["  1 a licence"], first

    def add(
        self, words: str, gloss: str, lex: int = 5, to: tuple[tuple[str, str], ...] = ()
    ) -> str:
        """Add a synset with ``words`` divided by blanks; returns its offset."""
        self._next += 1
        offset = f"{self._next:08d}"
        names = words.split()
        pointers = " ".join(f"{symbol} {other} n 0000" for symbol, other in to)
        fields = f"{offset} {lex:02d} {self.kind} {len(names):02x} "
        fields += " ".join(f"{name} 0" for name in names)
        self.lines.append(f"{fields} {len(to):03d} {pointers}".rstrip() + f" | {gloss}  ")
        return offset

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"


def wordnet() -> dict[str, str]:
    """Two kinds of animal with 40 below each, people, parts, and words of two senses."""
    nouns, verbs = Lines("n"), Lines("v")
    for kind, stem in (("beast", "quag"), ("fowl", "zill")):
        above = nouns.add(kind, "a living thing of some kind that moves about")
        for word in letters(40, stem):
            nouns.add(word, f"one found near the {kind} place {word[-2:]}", 5, (("@", above),))
    # A poet is a painter here, so that one of the roles is right of the other's people too.
    roles = [nouns.add(ROLES[0], "somebody of the first calling in the old list", 18)]
    for number, role in enumerate(ROLES[1:]):
        to = () if number else (("@", roles[0]),)
        roles.append(nouns.add(role, f"somebody of the calling number {number} in it", 18, to))
    for number, word in enumerate(letters(60, "Person_")):
        nouns.add(word, f"somebody born in the year {number}", 18, (("@i", roles[number % 5]),))
    wholes = [nouns.add(whole, f"a thing of use for purpose {whole[:2]}", 6) for whole in WHOLES]
    for number, word in enumerate(letters(60, "piece")):
        nouns.add(word, f"a thing inside of number {number}", 6, (("#p", wholes[number % 5]),))
    for lines, stem in ((nouns, "bank"), (verbs, "walk")):
        for word in letters(60, stem):
            for lex, sense in ((7, "old"), (10, "new")):
                told = f'"the {word}s are {sense} today"; "nobody saw the {sense} {word} there"'
                lines.add(word, f"something {sense} that is meant by it; {told}", lex)
    adjectives = Lines("a")
    adjectives.add("glum(p)", 'in low spirits; "a glum face"')
    return {
        "data.noun": nouns.text,
        "data.verb": verbs.text,
        "data.adj": adjectives.text,
        "data.adv": Lines("r").text,
        "noun.exc": "oxen ox\n",
        "verb.exc": "went go\n",
    }


def iso_codes() -> dict[str, str]:
    """Sixty lands with three shires each, and as many languages, currencies and scripts."""
    codes = [code.upper() for code in letters(60, "")]
    lands = [{"alpha_2": code, "alpha_3": f"{code}Q", "name": f"Land {code}"} for code in codes]
    lands[0] |= {"name": "Land AA, Republic of", "official_name": "The Republic of Land AA"}
    shires = [
        {"code": f"{code}-{number}", "name": f"Shire {number} by {code.lower()} [old]"}
        for code in codes
        for number in range(3)
    ]
    money = [{"alpha_3": f"{code}M", "name": f"Coin of {code}"} for code in codes]
    tongues = [
        {"alpha_3": f"{code.lower()}t", "name": f"Tongue {code}", "scope": "I", "type": "L"}
        for code in codes
    ]
    short = [{"alpha_2": code.lower(), "name": f"Tongue {code}; {code}ish"} for code in codes]
    scripts = [{"alpha_4": f"{code}cr", "name": f"Script {code} (old)"} for code in codes]
    tables = {"3166-1": lands, "3166-2": shires, "4217": money, "639-3": tongues, "639-2": short}
    tables["15924"] = scripts
    return {f"iso_{key}.json": json.dumps({key: rows}) for key, rows in tables.items()}


def countries_list() -> dict[str, str]:
    """The same lands."""
    rows = {
        code: {
            "name": f"Land {code}",
            "alias": [f"Old {code}"],
            "phone": [100 + number],
            "continent": list(CONTINENTS)[number % 4],
            "capital": f"City {code}",
            "currency": [f"{code}M", "AAM"],
            "languages": [code.lower()],
        }
        for number, code in enumerate(code.upper() for code in letters(60, ""))
    }
    return {
        "countries.min.json": json.dumps(rows),
        "continents.min.json": json.dumps(CONTINENTS),
        "currencies.min.json": json.dumps({f"{code}M": {"name": f"Coin {code}"} for code in rows}),
        "languages.min.json": json.dumps(
            {code.lower(): {"name": f"Tongue {code}"} for code in rows}
        ),
    }


def a_map(name: str, kind: str, divisions: dict[str, str]) -> str:
    """A map of KGeography."""
    inner = "".join(
        f"<division><name>{one}</name><capital>{capital}</capital></division>"
        for one, capital in divisions.items()
    )
    water = "<division><name>Water</name><ignore>yes</ignore></division>"
    start = '<?xml version="1.0" encoding="utf-8"?><!DOCTYPE kgeographyMap>'
    return (
        f"{start}<map><name>{name}</name><divisionsName>{kind}</divisionsName>{water}{inner}</map>"
    )


def kgeography() -> dict[str, str]:
    """Two maps of regions and one of countries."""
    return {
        f"{name}.kgm": a_map(
            name, "Provinces", {f"{stem} {i}": f"{stem} town {i}" for i in range(30)}
        )
        for name, stem in (("east", "Mark"), ("west", "Gau"))
    } | {"world.kgm": a_map("World", "Countries", {"Old AB": "Town AB", "Nowhere": "Nil"})}


def bsdgames() -> dict[str, str]:
    """A topic, and the index that names its fields."""
    lines = [f"{{the }}cub{word}:[big |old ]bear{word}|bruin" for word in letters(30, "")]
    folder = "/usr/share/games/bsdgames/quiz"
    return {
        "index": f"{folder}/babies:baby:adult\n{folder}/europe:Europe{{an}}:cap{{ital}}\n",
        "babies": "\n".join(lines) + "\n",
        "europe": "Land AC:City AC|Ville AC\nNowhere:\\\nNil\n",
    }


def mails() -> dict[str, str]:
    """Sixty spam and as many others, with a telling header."""
    head = "From: {0}@example.org\nX-Folder: {0}\nSubject: {1}\n"
    found = {}
    for number in range(60):
        text = f"buy the pills number {number} now, cheap and good"
        found[f"spam-1/{number:05d}.txt"] = head.format("spam", "Win!") + f"\n{text}\n"
        text = f"the meeting number {number} is in the old room"
        found[f"easy-ham-1/{number:05d}.txt"] = head.format("ham", "Re: plan") + f"\n{text}\n"
    return found


_FOLDERS = {
    "wordnet": ("usr/share/wordnet/", wordnet),
    "iso-codes": ("usr/share/iso-codes/json/", iso_codes),
    "kgeography": ("usr/share/kgeography/", kgeography),
    "countries-list": ("package/", countries_list),
    "bsdgames": ("usr/share/games/bsdgames/quiz/", bsdgames),
    "spam-assassin": ("package/data/", mails),
}


def contents(name: str) -> dict[str, str]:
    """The files of a source by their names in its package."""
    folder, make = _FOLDERS[name]
    return {f"{folder}{file}": text for file, text in make().items()}


def sources(*names: str) -> Sources:
    """What a builder is given; all of it where nothing is named."""
    return {
        name: {file: text.encode() for file, text in contents(name).items()}
        for name in names or _FOLDERS
    }


def task_shop(shop: Shop) -> tuple[Shop, dict[str, TaskSet]]:
    """Sell all packages; returns the sets with the hashes of the small npm packages."""
    pinned: dict[str, Package] = {}
    sets: dict[str, TaskSet] = {}
    known = (shop.folder / "names").read_text().split()
    for tasks in TASK_SETS.values():
        for source in tasks.corpus.sources:
            package, made = source.package, contents(source.name)
            if package.manager == "apt" and package.name not in known:
                licence = {f"usr/share/doc/{package.name}/copyright": f"as {package.name} likes"}
                shop.sell(package.name, deb(files({**made, **licence})))
                known.append(package.name)
            elif package.manager == "npm":
                data = tgz({**made, "package/LICENSE": "as you like"})
                path = shop.folder / f"{package.name}.tgz"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
                pinned[source.name] = replace(package, sha256=sha256(data), size=len(data))
        used = tuple(
            replace(source, package=pinned.get(source.name, source.package))
            for source in tasks.corpus.sources
        )
        sets[tasks.name] = replace(tasks, corpus=replace(tasks.corpus, sources=used))
    return shop, sets


def opened(folder: Path) -> tuple[Shop, dict[str, TaskSet]]:
    """A shop that has what the tasks are made of, and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    return task_shop(Shop(folder).open())
