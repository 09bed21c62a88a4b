"""Facts of words from WordNet: what a definition defines, what a name is, what has a part."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from turnout.data.fetch.tasks.questions import Files, words_of
from turnout.data.fetch.tasks.relations import Fact
from turnout.data.fetch.tasks.wordnet import HYPERNYM, INSTANCE, PART_OF, Synset, synsets

_SHORTEST, _LONGEST = 20, 120


def word_facts(files: Files) -> Iterator[Fact]:
    """Definitions, instances and parts.

    Raises:
        ValueError: the files are damaged.
    """
    found = synsets(files, "noun", "verb", "adj", "adv")
    net = _Net.of(found)
    yield from _definitions(found)
    for synset in found:
        yield from _role(synset, net)
        yield from _part(synset, net)


def name_pairs(files: Files) -> Iterator[tuple[str, str]]:
    """Two names each of what is an instance: ``Yangon`` and ``Rangoon``.

    Raises:
        ValueError: the file is damaged.
    """
    for synset in synsets(files, "noun"):
        if synset.to(INSTANCE):
            yield from ((word, synset.words[0]) for word in synset.words[1:])


def _definitions(found: Sequence[Synset]) -> Iterator[Fact]:
    """Of synsets of one word, where the definition does not say it."""
    for synset in found:
        word, text = synset.words[0], synset.definition
        alone = len(synset.words) == 1 and _SHORTEST <= len(text) <= _LONGEST
        if alone and not any(part in text.lower() for part in word.lower().split()):
            kind = f"{synset.part_of_speech}{synset.lexicographer}"
            yield Fact("word", text, word, word, "wordnet", group=kind)


@dataclass(frozen=True)
class _Net:
    """Synsets by key, and how many that are an instance or a part have each word."""

    by_key: Mapping[str, Synset]
    linked: Mapping[str, int]

    @staticmethod
    def of(found: Sequence[Synset]) -> "_Net":
        linked: Counter[str] = Counter()
        for synset in found:
            if synset.to(INSTANCE) or synset.to(PART_OF):
                linked.update({word.casefold() for word in synset.words})
        return _Net({synset.key: synset for synset in found}, linked)

    def only(self, synset: Synset, relation: str) -> Synset | None:
        """What the synset points to, where that is one alone."""
        found = [self.by_key[key] for key in synset.to(relation) if key in self.by_key]
        return found[0] if len(found) == 1 else None

    def above(self, synset: Synset, *relations: str) -> list[Synset]:
        """All that a synset points to by any of the relations, and that these do."""
        found = {synset.key: synset}
        waiting = [synset]
        while waiting:
            one = waiting.pop()
            keys = [key for relation in relations for key in one.to(relation)]
            new = [self.by_key[key] for key in keys if key in self.by_key and key not in found]
            found |= {other.key: other for other in new}
            waiting += new
        return list(found.values())[1:]


def _role(synset: Synset, net: _Net) -> Iterator[Fact]:
    """What a name is an instance of. It is of what that is a kind of as well: no wrong choice."""
    target = net.only(synset, INSTANCE)
    if target is not None:
        broader = _words(net.above(target, HYPERNYM, INSTANCE))
        yield from _link("role", synset, target, frozenset(), broader, net)


def _part(synset: Synset, net: _Net) -> Iterator[Fact]:
    """What something is a part of. It is part of what that is part of, too; and what one could call
    any of these wholes, a town or a place, is no wrong choice."""
    target = net.only(synset, PART_OF)
    if target is not None:
        wholes = net.above(target, PART_OF)
        kinds = _words(net.above(target, PART_OF, HYPERNYM, INSTANCE))
        yield from _link("part", synset, target, _words(wholes), kinds, net)


def _link(
    relation: str,
    synset: Synset,
    target: Synset,
    also: frozenset[str],
    near: frozenset[str],
    net: _Net,
) -> Iterator[Fact]:
    """A fact, asked by the first word that does not hold the answer and means nothing else that is
    an instance or a part."""
    answer, *others = target.words
    subject = next(
        (
            word
            for word in synset.words
            if net.linked[word.casefold()] == 1 and not _holds(word, answer)
        ),
        None,
    )
    if subject is not None:
        right, names = frozenset({*others, *also} - {answer}), frozenset(synset.words) - {subject}
        group = str(target.lexicographer)
        yield Fact(relation, subject, answer, subject, "wordnet", right, group, near - right, names)


def _words(some: Sequence[Synset]) -> frozenset[str]:
    return frozenset(word for synset in some for word in synset.words)


def _holds(subject: str, answer: str) -> bool:
    """Whether the answer stands in the subject, word by word."""
    return f" {' '.join(words_of(answer))} " in f" {' '.join(words_of(subject))} "
