"""Entailment between two sentences, from WordNet's hypernyms and the subdivisions of countries.

``There is a spaniel`` entails ``There is a dog``, and ``There is no dog`` entails ``There is no
spaniel``. Two such pairs that have changed hypotheses are not entailed. So every hypothesis, and
every premise, is entailed as often as not: half of the answers is what either alone can give.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from turnout.data.fetch.tasks.questions import (
    SPLITS,
    TRAIN,
    YES_NO,
    Built,
    Question,
    Sources,
    ask,
    canonical,
    generator,
    pairs,
    shuffled,
    split_of_name,
    words_of,
)
from turnout.data.fetch.tasks.wordnet import HYPERNYM, Synset, above, forms, synsets
from turnout.data.fetch.tasks.world import countries, iso_facts

PREFIX = "entails?"
HYPOTHESIS = " hypothesis: "
PAIRS = 800
"""Pairs of pairs of each relation and direction in training; a tenth as many elsewhere."""

# Animals, artefacts, body parts, food, people and plants: what can be seen in a picture.
_VISIBLE = frozenset({5, 6, 8, 13, 18, 20})
_FARTHEST = 3
_FEWEST_BELOW = 15
# A sentence that holds of everything above, and one that holds of everything below.
_KINDS = (
    ("There is {a} in the picture.", "There is no {} in the picture."),
    ("Ann saw {a} yesterday.", "Ann has never seen {a}."),
    ("Ann once drew {a}.", "Ann has never drawn {a}."),
)
_PLACES = (
    ("Ann lives in {}.", "Ann has never lived in {}."),
    ("They met in {}.", "They did not meet in {}."),
    ("The river ends in {}.", "The river does not touch {}."),
)


@dataclass(frozen=True)
class _Below:
    """A narrow term, one above it, all names of what is above it, and what defines it."""

    narrow: str
    wide: str
    above: frozenset[str]
    group: str
    definition: str = ""


def entailment(sources: Sources, seed: int, most: int = PAIRS) -> Built:
    """Questions with ``yes`` and ``no``, narrow terms split.

    Raises:
        ValueError: a file is damaged.
    """
    kinds = list(_hypernyms(synsets(sources["wordnet"], "noun"), seed))
    places = list(_places(sources))
    splits: dict[str, list[Question]] = {split: [] for split in SPLITS}
    for split, some in splits.items():
        bound = most if split == TRAIN else max(most // 10, 1)
        for name, items, frames in (("hypernym", kinds, _KINDS), ("place", places, _PLACES)):
            here = [item for item in items if split_of_name(item.narrow, seed) == split]
            for direction in range(2):
                random_ = generator(seed, "entailment", name, split, str(direction))
                relation = f"{name}-negated" if direction else name
                for pair in pairs(shuffled(here, random_), _clash, bound):
                    frame = random_.choice(frames)[direction]
                    some += _questions(pair, frame, relation, bool(direction))
        splits[split] = shuffled(some, generator(seed, "entailment", split))
    return Built(splits)


def hypothesis(question: Question) -> str:
    """The hypothesis alone, for a baseline that reads nothing else."""
    return question.inputs.partition(HYPOTHESIS)[2]


def overlap(question: Question) -> str:
    """How many words the sentences share, for a baseline that reads nothing else."""
    premise, _, conclusion = question.inputs.lower().partition(HYPOTHESIS)
    words = set(conclusion.strip(".").split())
    return f"shared{len(words & set(premise.strip('.').split()))} of{len(words)}"


def _questions(
    pair: tuple[_Below, _Below], frame: str, relation: str, negated: bool
) -> Iterator[Question]:
    for one in pair:
        for other in pair:
            premise, conclusion = (one.wide, other.narrow) if negated else (one.narrow, other.wide)
            said, asked = _sentence(frame, premise), _sentence(frame, conclusion)
            inputs = f"{PREFIX} premise: {said}{HYPOTHESIS}{asked}"
            entity = other.narrow if negated else one.narrow
            yield ask(inputs, YES_NO, YES_NO[one is not other], relation, entity)


def _clash(one: _Below, other: _Below) -> bool:
    """Whether a changed pair would be true, or the two are of different kinds."""
    related = one.wide in other.above or other.wide in one.above
    told = _tells(one.definition, other.wide) or _tells(other.definition, one.wide)
    return related or told or one.narrow == other.narrow or one.group != other.group


def _tells(definition: str, wide: str) -> bool:
    """Whether a definition has the word: then it is one, though WordNet has no pointer."""
    text = f" {' '.join(words_of(definition))} "
    return any(f" {form} " in text for form in forms(wide, "n"))


def _hypernyms(found: Sequence[Synset], seed: int) -> Iterator[_Below]:
    """Nouns of one sense, each with one of the common nouns a few steps above it."""
    by_key = {synset.key: synset for synset in found}
    senses: dict[str, int] = {}
    below: dict[str, int] = {}
    lines: dict[str, list[str]] = {}
    for synset in found:
        lines[synset.key] = list(above(synset, HYPERNYM, by_key))
        for key in lines[synset.key]:
            below[key] = below.get(key, 0) + 1
        for word in synset.words:
            senses[word] = senses.get(word, 0) + 1
    random_ = generator(seed, "hypernyms")
    for synset in found:
        narrow = synset.words[0]
        visible = synset.lexicographer in _VISIBLE and senses[narrow] == 1 and _plain(narrow)
        if not visible or below.get(synset.key, 0):
            continue
        broader = [by_key[key] for key in lines[synset.key]]
        wide = [
            one.words[0]
            for one in broader[:_FARTHEST]
            if below[one.key] >= _FEWEST_BELOW
            and one.lexicographer == synset.lexicographer
            and _plain(one.words[0])
        ]
        if wide:
            names = frozenset(word for one in broader for word in one.words)
            group = str(synset.lexicographer)
            yield _Below(narrow, random_.choice(wide), names, group, synset.definition)


def _places(sources: Sources) -> Iterator[_Below]:
    """Subdivisions of one country, but for those that are called as a country is."""
    names: dict[str, set[str]] = {}
    known = countries(sources)
    lands = {canonical(name) for name in known.aliases}
    for fact in iso_facts(sources, known):
        if fact.relation == "subdivision-country" and canonical(fact.subject) not in lands:
            names.setdefault(fact.subject, set()).add(fact.answer)
    for name, found in names.items():
        if len(found) == 1:
            (country,) = found
            yield _Below(name, country, frozenset(found), "")


def _plain(word: str) -> bool:
    return word.replace(" ", "").isalpha() and word.islower()


def _sentence(frame: str, word: str) -> str:
    article = "an" if word[0] in "aeiou" else "a"
    return frame.replace("{a}", f"{article} {word}").replace("{}", word)
