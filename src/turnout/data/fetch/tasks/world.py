"""Facts of countries, languages, currencies and scripts, from iso-codes, countries-list and
KGeography."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from xml.etree import ElementTree

from turnout.data.fetch.tasks.questions import Files, Sources
from turnout.data.fetch.tasks.relations import Fact

_INVERTED = re.compile(r"([^,]+), ((?:.+ )?(?:of|of the))")
_ASIDE = re.compile(r"\s*[\[(][^\])]*[\])]")
_LIVING = ("L", "I")
_COUNTRIES = "Countries"


@dataclass(frozen=True)
class Countries:
    """Countries by two-letter code.

    Attributes:
        names: how each is called.
        aliases: the code by every name in small letters.
    """

    names: Mapping[str, str]
    aliases: Mapping[str, str]

    def entity(self, name: str) -> str:
        """The country's own name, or ``name`` where it is none's."""
        code = self.aliases.get(name.casefold())
        return self.names[code] if code else name


def entries(files: Files, name: str, key: str, *fields: str) -> list[Mapping[str, str]]:
    """The table ``key`` of a JSON file of iso-codes, rows that have all ``fields``.

    Raises:
        ValueError: the file is missing or is not such a table.
    """
    table = _json(files, name).get(key)
    if not isinstance(table, list) or not all(isinstance(row, dict) for row in table):
        raise ValueError(f"{name} holds no table {key!r}")
    return [row for row in table if all(isinstance(row.get(field), str) for field in fields)]


def _json(files: Files, name: str) -> Mapping[str, Any]:
    raw = next((raw for path, raw in files.items() if PurePosixPath(path).name == name), None)
    if raw is None:
        raise ValueError(f"{name} is missing")
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{name} is no JSON object")
    return found


def countries(sources: Sources) -> Countries:
    """The names of countries: countries-list's where it has one, else iso-codes'."""
    names: dict[str, str] = {}
    aliases: dict[str, str] = {}
    rows = entries(sources["iso-codes"], "iso_3166-1.json", "3166-1", "alpha_2", "name")
    listed = _listed(sources)
    for row in rows:
        code = row["alpha_2"]
        known = [row.get("common_name", ""), _straight(row["name"]), row["name"]]
        known += [row.get("official_name", "")]
        here = listed.get(code, {})
        given = [one for one in (here.get("name"), *known, *here.get("alias", ())) if one]
        names[code] = given[0]
        for one in given:
            aliases.setdefault(one.casefold(), code)
    return Countries(names, aliases)


def _straight(name: str) -> str:
    """``Iran, Islamic Republic of`` the other way round."""
    match = _INVERTED.fullmatch(name)
    return f"{match[2]} {match[1]}" if match else name


def _listed(sources: Sources) -> Mapping[str, Mapping[str, Any]]:
    files = sources.get("countries-list")
    table = _json(files, "countries.min.json") if files else {}
    return {code: row for code, row in table.items() if isinstance(row, dict)}


def iso_facts(sources: Sources, known: Countries) -> Iterator[Fact]:
    """Codes of countries, currencies, languages and scripts, and where subdivisions are."""
    files, source = sources["iso-codes"], "iso-codes"
    for row in entries(files, "iso_3166-1.json", "3166-1", "alpha_2", "alpha_3", "name"):
        name = known.names.get(row["alpha_2"], row["name"])
        yield Fact("country-code", name, row["alpha_2"], name, source)
        yield Fact("code-country", row["alpha_2"], name, name, source)
        yield Fact("country-code3", name, row["alpha_3"], name, source)
    for row in entries(files, "iso_3166-2.json", "3166-2", "code", "name"):
        name, country = _ASIDE.sub("", row["name"]), known.names.get(row["code"][:2], "")
        if name and country and country.casefold() not in name.casefold():
            yield Fact("subdivision-country", name, country, known.entity(name), source)
    for row in entries(files, "iso_4217.json", "4217", "alpha_3", "name"):
        yield Fact("currency-code", row["name"], row["alpha_3"], row["name"], source)
        yield Fact("code-currency", row["alpha_3"], row["name"], row["name"], source)
    for row in entries(files, "iso_639-3.json", "639-3", "alpha_3", "name", "scope", "type"):
        if (row["type"], row["scope"]) == _LIVING:
            yield Fact("language-code", row["name"], row["alpha_3"], row["name"], source)
    for row in entries(files, "iso_639-2.json", "639-2", "alpha_2", "name"):
        name = row["name"].partition(";")[0]
        yield Fact("code-language", row["alpha_2"], name, name, source)
    for row in entries(files, "iso_15924.json", "15924", "alpha_4", "name"):
        name = _ASIDE.sub("", row["name"])
        yield Fact("script-code", name, row["alpha_4"], name, source)
        yield Fact("code-script", row["alpha_4"], name, name, source)


def listed_facts(sources: Sources, known: Countries) -> Iterator[Fact]:
    """Capital, continent, currency, language and telephone code from countries-list."""
    files, source = sources.get("countries-list"), "countries-list"
    if not files:
        return
    continents = _json(files, "continents.min.json")
    money = _named(_json(files, "currencies.min.json"))
    tongues = _named(_json(files, "languages.min.json"))
    for code, row in _listed(sources).items():
        name = known.names.get(code)
        if name is None:
            continue
        yield from _capital(name, str(row.get("capital") or ""), source)
        if row.get("continent") in continents:
            continent = str(continents[row["continent"]])
            yield Fact("country-continent", name, continent, name, source)
        spoken = [tongues[tongue] for tongue in row.get("languages") or [] if tongue in tongues]
        paid = [money[one] for one in row.get("currency") or [] if one in money]
        dialled = [str(one) for one in row.get("phone") or []]
        for relation, answers in (("language", spoken), ("currency", paid), ("phone", dialled)):
            if answers:
                others = frozenset(answers[1:])
                yield Fact(f"country-{relation}", name, answers[0], name, source, others)


def _named(table: Mapping[str, Any]) -> dict[str, str]:
    return {
        code: str(row["name"])
        for code, row in table.items()
        if isinstance(row, dict) and "name" in row
    }


def _capital(country: str, capital: str, source: str) -> Iterator[Fact]:
    if capital and capital.casefold() != country.casefold():
        yield Fact("country-capital", country, capital, country, source)
        yield Fact("capital-country", capital, country, country, source)


def map_facts(sources: Sources, known: Countries) -> Iterator[Fact]:
    """Capitals of countries and of their regions, from the maps of KGeography.

    Raises:
        ValueError: a map is no XML, or declares entities.
    """
    for name, raw in sorted(sources.get("kgeography", {}).items()):
        if b"<!ENTITY" in raw:
            raise ValueError(f"{name} declares entities")
        try:
            root = ElementTree.fromstring(raw)
        except ElementTree.ParseError as error:
            raise ValueError(f"{name} is no XML: {error}") from error
        kind = (root.findtext("divisionsName") or "").strip()
        for division in root.iterfind("division"):
            subject = (division.findtext("name") or "").strip()
            capital = (division.findtext("capital") or "").strip(" -")
            if not subject or not capital or division.findtext("ignore") == "yes":
                continue
            entity = known.entity(subject)
            if kind == _COUNTRIES and subject.casefold() in known.aliases:
                yield from _capital(entity, capital, "kgeography")
            elif kind == _COUNTRIES:
                continue  # under a name that no list knows it could be asked twice
            elif capital.casefold() != subject.casefold():
                group = root.findtext("name") or ""
                yield Fact(
                    "region-capital", subject, capital, entity, "kgeography", group=group.strip()
                )
