"""Facts on small texts, worked out by hand: where they come from and how they are asked."""

import json
from contextlib import suppress
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.fetch.tasks.small import Lines, a_map, sources

from turnout.data.fetch.tasks.entities import united
from turnout.data.fetch.tasks.facts import Pool, choose, consolidate, facts, known_facts
from turnout.data.fetch.tasks.lexicon import word_facts
from turnout.data.fetch.tasks.questions import generator, split_of_name
from turnout.data.fetch.tasks.quiz import quiz_facts, readings
from turnout.data.fetch.tasks.relations import RELATIONS, Fact
from turnout.data.fetch.tasks.statements import _clash, statements
from turnout.data.fetch.tasks.world import countries, iso_facts, map_facts

AFRICA = {
    "index": b"/usr/share/quiz/africa:Africa{n}:cap{ital}\n",
    "africa": b"Benin:Porto-Novo\nCongo\\: the small:\\\nBrazza[ville|]\nTogo:{}\nBad line\n",
}


@cache
def known() -> dict[tuple[str, str], Fact]:
    return {(one.relation, one.subject): one for one in known_facts(sources())}


def found(relation: str, subject: str) -> Fact:
    return known()[relation, subject]


def test_countries_are_one_entity_under_all_their_names() -> None:
    lands = countries(sources("iso-codes", "countries-list"))
    assert lands.names["AA"] == "Land AA"
    for name in ("LAND AA", "Land AA, Republic of", "the republic of land aa", "Old AA"):
        assert lands.entity(name) == "Land AA"
    assert lands.entity("Republic of Land AA") == "Land AA"  # turned round
    assert lands.entity("Atlantis") == "Atlantis"
    assert countries(sources("iso-codes")).names["AA"] == "Republic of Land AA"


def test_facts_of_a_country_by_hand() -> None:
    assert found("country-capital", "Land AC").answer == "City AC"
    assert found("capital-country", "City AC").answer == "Land AC"
    assert found("capital-country", "City AC").entity == "Land AC"
    assert found("country-code", "Land AC").answer == "AC"
    assert found("code-country", "AC").entity == "Land AC"
    assert found("country-phone", "Land AC").answer == "102"
    # The number 2 of the lands is on the continent number 2.
    assert found("country-continent", "Land AC").answer == "Europe"
    money = found("country-currency", "Land AC")
    assert (money.answer, money.also) == ("Coin AC", {"Coin AA"})
    assert found("subdivision-country", "Shire 1 by ac").answer == "Land AC"
    assert found("code-language", "ac").answer == "Tongue AC"
    assert found("code-script", "ACcr").answer == "Script AC"


def test_the_first_source_is_believed_and_the_others_are_no_wrong_choices() -> None:
    """The map says Town AB of Old AB; countries-list City AB of Land AB, by its own name."""
    capital = found("country-capital", "Land AB")
    assert (capital.answer, capital.also) == ("City AB", {"Town AB"})
    names = {one.subject for one in known_facts(sources()) if one.relation == "country-capital"}
    assert "Nowhere" not in names  # no list knows it
    assert found("country-capital", "Land AC").also == {"Ville AC"}  # the quiz has both


def test_words_roles_and_parts() -> None:
    assert found("word", "one found near the beast place ab").answer == "quagab"
    poet = found("role", "Person ab")
    # Every poet is a painter: no answer, and no wrong choice either.
    assert (poet.answer, poet.also, poet.near) == ("poet", frozenset(), {"painter"})
    assert not found("role", "Person aa").near
    assert found("part", "pieceab").answer == "house"
    # Sixty words are meant by the same definition: it defines none.
    assert not [one for one in known_facts(sources()) if one.subject.startswith("something old")]


def test_a_source_that_contradicts_itself_is_not_believed() -> None:
    def fact(answer: str, source: str = "maps", also: frozenset[str] = frozenset()) -> Fact:
        return Fact("region-capital", "Punjab", answer, "Punjab", source, also)

    assert consolidate([fact("Lahore"), fact("Chandigarh")]) == []
    assert consolidate([fact("Lahore"), fact("Lahore")]) == [fact("Lahore")]
    others = consolidate([fact("Lahore"), fact("Chandigarh", "quiz")])
    assert others == [fact("Lahore", also=frozenset({"Chandigarh"}))]
    west = replace(fact("Lahore", "quiz"), entity="West", near=frozenset({"town"}))
    (both_names,) = consolidate([fact("Lahore"), west])
    assert (both_names.names, both_names.near) == ({"West"}, {"town"})
    both = fact("Lahore", also=frozenset({"Chandigarh"}))
    assert consolidate([both, fact("Chandigarh")]) == [both]


@pytest.mark.parametrize(
    ("pattern", "shown"),
    [
        ("Benin", ["Benin"]),
        ("{G{eorge} }Washington", ["George Washington"]),
        ("lion|tiger|bear", ["lion", "tiger", "bear"]),
        ("[St.|Saint] John's", ["St. John's"]),
        ("forget{-| }me{-| }not", ["forget-me-not"]),
        ("W[illia|]m [I|1|the Conqueror]", ["William I"]),
        ("{The }Merchant{ of Venice{ IV-i}}", ["The Merchant of Venice IV-i"]),
        ("", [""]),
    ],
)
def test_readings(pattern: str, shown: list[str]) -> None:
    assert readings(pattern) == shown


@pytest.mark.parametrize("pattern", ["{a", "[a|b", "a}", "a]b", "{a]", "{" * 12 + "}" * 12])
def test_patterns_that_do_not_close(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"close|deep"):
        readings(pattern)


@given(st.text(alphabet="ab{}[]| -", max_size=20))
def test_any_pattern_is_read_or_refused(pattern: str) -> None:
    with suppress(ValueError):
        assert all(one == " ".join(one.split()) for one in readings(pattern))


def test_the_index_names_the_fields_of_the_quiz() -> None:
    assert [(one.subject, one.answer) for one in quiz_facts(AFRICA)] == [
        ("Benin", "Porto-Novo"),
        ("Congo: the small", "Brazzaville"),
    ]
    with pytest.raises(ValueError, match="index is missing"):
        list(quiz_facts({"africa": AFRICA["africa"]}))


def test_hostile_maps_and_tables() -> None:
    lands = countries(sources("iso-codes"))
    bomb = b'<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><map>&b;</map>'
    good = a_map("X", "Provinces", {"Mark": "Town"}).encode()
    for raw, message in ((bomb, "declares entities"), (good[:-9], "is no XML"), (b"", "no XML")):
        with pytest.raises(ValueError, match=message):
            list(map_facts({"kgeography": {"x.kgm": raw}}, lands))
    tables = dict(sources("iso-codes")["iso-codes"])
    name = next(file for file in tables if file.endswith("iso_4217.json"))
    for raw, message in (
        (b"{", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[1]", "no JSON object"),
        (b'{"4217": [1]}', "holds no table"),
    ):
        with pytest.raises(ValueError, match=message):
            list(iso_facts({"iso-codes": {**tables, name: raw}}, lands))
    rows = json.dumps({"4217": [{"alpha_3": 7, "name": "Seven"}, {"name": "None"}]}).encode()
    kept = list(iso_facts({"iso-codes": {**tables, name: rows}}, lands))
    assert not [one for one in kept if one.relation == "currency-code"]


def test_relations_have_ways_to_ask_of_which_one_is_held_out() -> None:
    for relation in RELATIONS.values():
        assert len(relation.asks) >= 4
        assert len(relation.states) >= 2
        assert len(set(relation.asks)) == len(relation.asks)
        assert all(way.count("{}") == 1 for way in relation.asks)
        assert all(way.count("{0}") == way.count("{1}") == 1 for way in relation.states)


@pytest.mark.parametrize("build", [facts, statements])
def test_memory_asks_for_what_was_trained_on_in_other_words(build) -> None:
    built = build(sources(), 0)
    trained = {one.entity for one in built.splits["train"]}
    assert built.splits["memory"]
    assert {one.entity for one in built.splits["memory"]} <= trained
    asked = {one.inputs for split in ("train", "validation", "test") for one in built.splits[split]}
    assert not asked & {one.inputs for one in built.splits["memory"]}
    templates = built.notes["held_out_templates"]
    for one in built.splits["memory"]:
        start = templates[one.relation].split("{")[0]
        assert f": {start}" in one.inputs or not start
    assert all(
        split_of_name(one.entity, 0) == split
        for split in ("train", "validation", "test")
        for one in built.splits[split]
    )


def test_no_relation_is_more_than_a_quarter_and_small_ones_are_whole() -> None:
    sizes = {name: len(some) for name, some in choose(known_facts(sources()), 0, 400).items()}
    assert sum(sizes.values()) <= 400
    assert max(sizes.values()) <= 100
    some = [Fact("word", f"w{n}", f"a{n}", f"w{n}", "x") for n in range(50)]
    small = [Fact("part", f"p{n}", f"b{n % 4}", f"p{n}", "x") for n in range(13)]
    few = [Fact("role", f"r{n}", f"c{n}", f"r{n}", "x") for n in range(11)]
    three = [Fact("young", f"y{n}", f"d{n % 3}", f"y{n}", "x") for n in range(20)]
    chosen = choose([*some, *small, *few, *three], 0, 40)
    # Eleven facts are too few, and three answers; 10 is a quarter of 40.
    assert {name: len(facts) for name, facts in chosen.items()} == {"word": 10, "part": 10}


def test_wrong_choices_are_never_right_and_of_the_group_first() -> None:
    near = [Fact("part", f"s{n}", f"a{n}", f"s{n}", "x", group="near") for n in range(12)]
    far = [Fact("part", f"t{n}", f"b{n}", f"t{n}", "x", group="far") for n in range(3)]
    pool = Pool([*near, *far], [*near, *far])
    for turn in range(50):
        random_ = generator(turn, "pool")
        fact = Fact(
            "part", "s0", "a0", "s0", "x", frozenset({"A1", "b0"}), "near", frozenset({"a2"})
        )
        choices = pool.choices(fact, random_)
        assert len(choices) == 8
        assert choices.count("a0") == 1
        assert not {"a1", "a2", *(one.answer for one in far)} & set(
            choices
        )  # twelve near ones suffice
        alone = pool.choices(far[0], random_)
        assert {"b0", "b1", "b2"} <= set(alone)
        # A split of three facts has three choices; a fourth is taken from elsewhere.
        few = Pool(far, [*near, *far]).choices(far[0], random_)
        assert len(few) == 4
        assert {"b0", "b1", "b2"} <= set(few)


def test_wrong_choices_are_answers_of_the_same_split() -> None:
    built = facts(sources(), 0)
    answers: dict[tuple[str, str], set[str]] = {}
    for split in ("train", "validation", "test"):
        for one in built.splits[split]:
            answers.setdefault((split, one.relation), set()).add(one.targets)
    for split in ("train", "validation", "test"):
        for one in built.splits[split]:
            if len(one.choices) > 4:
                assert set(one.choices) <= answers[split, one.relation]


def test_without_a_source_the_others_are_asked() -> None:
    built = facts(sources("wordnet"), 0)
    assert {one.relation for one in built.splits["train"]} == {"word", "role", "part"}
    built = facts(sources("bsdgames"), 0)
    assert {one.relation for one in built.splits["train"]} == {"young"}


def test_a_quiz_shows_articles_and_one_of_the_right_answers() -> None:
    fact = found("young", "the cubab")
    assert (fact.answer, fact.also) == ("big bearab", {"bruin"})


def test_a_false_statement_is_of_the_same_relation_and_not_true() -> None:
    built = statements(sources(), 0)
    true = {(one.relation, one.subject): {one.answer, *one.also} for one in known_facts(sources())}
    seen = 0
    for one in built.splits["train"]:
        if one.relation == "country-capital":
            (city,) = (word for word in one.inputs.rstrip(".").split("City ")[1:])
            right = f"City {city.split()[0]}" in true["country-capital", one.entity]
            assert one.targets == ("true" if right else "false")
            seen += 1
    assert seen > 20


def test_an_entity_is_one_under_all_its_names() -> None:
    def fact(entity: str, *names: str) -> Fact:
        return Fact("role", entity, "city", entity, "x", names=frozenset(names))

    some = [fact("Myanmar"), fact("Rangoon", "Yangon"), fact("Yangon"), fact("Modern Greek")]
    some += [fact("Greek, Modern"), fact("Union of Burma"), fact("Oslo")]
    found = united(some, [("union of burma", "Burma"), ("Burma", "Myanmar")])
    assert [one.entity for one in found] == [
        *("Myanmar", "Rangoon", "Rangoon", "Modern Greek", "Modern Greek", "Myanmar", "Oslo")
    ]
    assert [one.subject for one in found] == [one.subject for one in some]


def linked() -> dict[tuple[str, str], Fact]:
    """Facts of a small WordNet, of names that mean two things or hold their answers."""
    nouns = Lines("n")
    place = nouns.add("place", "a point where something is", 15)
    river = nouns.add("river stream", "a body of water that runs", 17)
    town = nouns.add("town", "an urban area with a name", 15, (("@", place),))
    land = nouns.add("Land Realm", "a country of the world", 15, (("@i", place),))
    nouns.add("Dee_River Dee", "runs to the sea in the west", 17, (("@i", river),))
    nouns.add("The_River", "has no other name than this", 17, (("@i", river),))
    nouns.add("Rome Eternal_City", "a town that is old", 15, (("@i", town), ("#p", land)))
    nouns.add("Rome", "a stretch of water of that name", 17, (("@i", river),))
    found = [*word_facts({**BARE, "data.noun": nouns.text.encode()})]
    return {(one.relation, one.subject): one for one in found}


BARE = {f"data.{part}": b"" for part in ("verb", "adj", "adv")}


def test_questions_do_not_hold_their_answers() -> None:
    found = linked()
    assert found["role", "Dee"].answer == "river"
    assert found["role", "Dee"].names == {"Dee River"}
    assert ("role", "The River") not in found


def test_names_of_two_things_are_asked_by_another_name_or_not_at_all() -> None:
    """Rome is a river too, so that it is the Eternal City that is a town."""
    found = linked()
    assert {subject for _, subject in found if "Rome" in subject} == set()
    assert found["role", "Eternal City"].near == {"place"}
    part = found["part", "Eternal City"]
    # What a whole is called by its kind is no wrong choice: it is a part of a place.
    assert (part.answer, part.also, part.near) == ("Land", {"Realm"}, {"place"})


def test_statements_of_a_role_are_made_though_all_are_persons() -> None:
    people = [
        Fact("role", f"p{n}", "poet" if n % 2 else "king", f"p{n}", "x", near=frozenset({"person"}))
        for n in range(4)
    ]
    assert not _clash(people[0], people[1])
    assert _clash(people[0], people[2])
    painter = replace(people[0], answer="painter")
    assert _clash(painter, replace(people[1], near=frozenset({"painter"})))
    assert "role" in {one.relation for one in statements(sources(), 0).splits["train"]}
