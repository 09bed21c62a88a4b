"""Closed-book facts: questions whose answers stand in no passage, so that a model must know them.

Entities are split, and a held-out entity cannot be known without other training. ``memory`` asks
for facts that were trained on, in words that were not: it measures what a model holds.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import final

from turnout.data.fetch.tasks.entities import united
from turnout.data.fetch.tasks.lexicon import name_pairs, word_facts
from turnout.data.fetch.tasks.questions import (
    MEMORY,
    SPLITS,
    TRAIN,
    Built,
    Question,
    Sources,
    ask,
    generator,
    level,
    shuffled,
    split_of_name,
)
from turnout.data.fetch.tasks.quiz import quiz_facts
from turnout.data.fetch.tasks.relations import RELATIONS, Fact
from turnout.data.fetch.tasks.world import (
    Countries,
    countries,
    iso_facts,
    listed_facts,
    map_facts,
)

PREFIX = "fact:"
QUESTIONS = 20_000
MEMORIES = 4_000
FEWEST_FACTS = 12
MOST_CHOICES, FEWEST_CHOICES = 8, 4
_LARGEST_SHARE = 4


def facts(sources: Sources, seed: int, total: int = QUESTIONS) -> Built:
    """Questions on about ``total`` facts, of no relation more than a quarter.

    Raises:
        ValueError: a file is damaged.
    """
    chosen = choose(known_facts(sources), seed, total)
    questions: dict[str, list[Question]] = {split: [] for split in (*SPLITS, MEMORY)}
    for relation, some in chosen.items():
        sides = {
            split: [one for one in some if split_of_name(one.entity, seed) == split]
            for split in SPLITS
        }
        pools = {split: Pool(here, some) for split, here in sides.items()}
        random_ = generator(seed, "facts", relation)
        *asked, held_out = RELATIONS[relation].asks
        for fact in some:
            split = split_of_name(fact.entity, seed)
            choices = pools[split].choices(fact, random_)
            questions[split].append(_question(fact, random_.choice(asked), choices))
            if split == TRAIN:
                questions[MEMORY].append(_question(fact, held_out, choices))
    mixed = {split: shuffled(some, generator(seed, split)) for split, some in questions.items()}
    mixed[MEMORY] = mixed[MEMORY][: MEMORIES * total // QUESTIONS]
    return Built(mixed, {"held_out_templates": {name: RELATIONS[name].asks[-1] for name in chosen}})


def _question(fact: Fact, template: str, choices: Sequence[str]) -> Question:
    inputs = f"{PREFIX} {template.replace('{}', fact.subject)}"
    return ask(inputs, choices, fact.answer, fact.relation, fact.entity, sorted(fact.also))


def known_facts(sources: Sources) -> list[Fact]:
    """Every fact of the sources that are there, one for each subject and relation.

    Of two sources the first is believed. A source that contradicts itself is not.
    """
    known = countries(sources) if "iso-codes" in sources else Countries({}, {})
    aliases = [(name, known.entity(name)) for name in known.aliases]
    if "wordnet" in sources:
        aliases += name_pairs(sources["wordnet"])
    return united(consolidate(_all(sources, known)), aliases)


def _all(sources: Sources, known: Countries) -> Iterator[Fact]:
    yield from listed_facts(sources, known)
    if "iso-codes" in sources:
        yield from iso_facts(sources, known)
    yield from map_facts(sources, known)
    for fact in quiz_facts(sources["bsdgames"]) if "bsdgames" in sources else ():
        name = known.entity(fact.subject)
        if fact.relation != "country-capital":
            yield replace(fact, entity=name)
        elif fact.subject.casefold() in known.aliases:
            yield replace(fact, entity=name, subject=name)
    if "wordnet" in sources:
        yield from word_facts(sources["wordnet"])


def consolidate(found: Iterable[Fact]) -> list[Fact]:
    """One fact a relation and subject; what other facts say of them is right as well."""
    groups: dict[tuple[str, str], list[Fact]] = {}
    for fact in found:
        groups.setdefault((fact.relation, fact.subject.casefold()), []).append(fact)
    kept = []
    for same in groups.values():
        first = same[0]
        answers = {one.answer for one in same if one.source == first.source}
        if len(answers - first.also) > 1:
            continue
        also = {one.answer for one in same}.union(*(one.also for one in same)) - {first.answer}
        near = frozenset().union(*(one.near for one in same))
        names = frozenset().union(*({one.entity, *one.names} for one in same))
        kept.append(replace(first, also=frozenset(also), near=near, names=names - {first.entity}))
    return kept


def choose(found: Sequence[Fact], seed: int, total: int) -> dict[str, list[Fact]]:
    """About ``total`` facts by relation: all of small relations, as many of each large one."""
    by_relation: dict[str, list[Fact]] = {}
    for fact in found:
        by_relation.setdefault(fact.relation, []).append(fact)
    usable = {
        name: some
        for name in RELATIONS
        if len(some := by_relation.get(name, [])) >= FEWEST_FACTS
        and len({fact.answer.casefold() for fact in some}) >= FEWEST_CHOICES
    }
    most = level([len(some) for some in usable.values()], total, total // _LARGEST_SHARE)
    return {
        name: shuffled(some, generator(seed, "choose", name))[:most]
        for name, some in usable.items()
    }


@final
class Pool:
    """Wrong answers for the facts of one relation and split, as frequent as they are right ones.

    They are right answers of the same split. Otherwise, where every fact has an answer of its own,
    the right one would be the one that no question of training had.
    """

    def __init__(self, here: Sequence[Fact], everywhere: Sequence[Fact]) -> None:
        self._here = [fact.answer for fact in here]
        self._everywhere = [fact.answer for fact in everywhere]
        self._groups: dict[str, list[str]] = {}
        for fact in here:
            self._groups.setdefault(fact.group, []).append(fact.answer)

    def choices(self, fact: Fact, random_: random.Random) -> tuple[str, ...]:
        """The right answer among others, of the fact's group first, in a seeded order.

        Where the split has too few, others make them up to ``FEWEST_CHOICES``.
        """
        taken = {other.casefold() for other in (fact.answer, *fact.also, *fact.near)}
        wrong: list[str] = []
        for answers, most in (
            (self._groups.get(fact.group, []), MOST_CHOICES),
            (self._here, MOST_CHOICES),
            (self._everywhere, FEWEST_CHOICES),
        ):
            for answer in _draws(answers, random_):
                if len(wrong) >= most - 1:
                    break
                if answer.casefold() not in taken:
                    taken.add(answer.casefold())
                    wrong.append(answer)
        return tuple(shuffled([fact.answer, *wrong], random_))


def _draws(answers: Sequence[str], random_: random.Random) -> Iterator[str]:
    """A few draws of all answers, then each that there is, so that none is missed."""
    if len(answers) > 4 * MOST_CHOICES:
        yield from (random_.choice(answers) for _ in range(4 * MOST_CHOICES))
    yield from shuffled(answers, random_)
