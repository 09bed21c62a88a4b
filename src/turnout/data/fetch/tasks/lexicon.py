"""Facts of words from WordNet: what a definition defines, what a name is, what has a part."""

from collections.abc import Iterator, Mapping, Sequence

from turnout.data.fetch.tasks.questions import Files
from turnout.data.fetch.tasks.relations import Fact
from turnout.data.fetch.tasks.wordnet import HYPERNYM, INSTANCE, PART_OF, Synset, above, synsets

_SHORTEST, _LONGEST = 20, 120


def word_facts(files: Files) -> Iterator[Fact]:
    """Definitions, instances and parts.

    Raises:
        ValueError: the files are damaged.
    """
    found = synsets(files, "noun", "verb", "adj", "adv")
    by_key = {synset.key: synset for synset in found}
    yield from _definitions(found)
    for synset in found:
        yield from _link(synset, (INSTANCE, HYPERNYM), "role", by_key)
        yield from _link(synset, (PART_OF, PART_OF), "part", by_key)


def _definitions(found: Sequence[Synset]) -> Iterator[Fact]:
    """Of synsets of one word, where the definition does not say it."""
    for synset in found:
        word, text = synset.words[0], synset.definition
        alone = len(synset.words) == 1 and _SHORTEST <= len(text) <= _LONGEST
        if alone and not any(part in text.lower() for part in word.lower().split()):
            kind = f"{synset.part_of_speech}{synset.lexicographer}"
            yield Fact("word", text, word, word, "wordnet", group=kind)


def _link(
    synset: Synset, symbols: tuple[str, str], relation: str, by_key: Mapping[str, Synset]
) -> Iterator[Fact]:
    """A fact where WordNet knows one answer alone, found by the first of ``symbols``.

    What is above the answer by the second is right as well: a painter is an artist, and what is
    part of Arizona is part of the United States.
    """
    targets = [by_key[key] for key in synset.to(symbols[0]) if key in by_key]
    if len(targets) != 1:
        return
    subject = max(synset.words, key=len)
    answer, *others = targets[0].words
    broader = (word for key in above(targets[0], symbols[1], by_key) for word in by_key[key].words)
    if answer.casefold() != subject.casefold():
        group = str(targets[0].lexicographer)
        yield Fact(
            relation, subject, answer, subject, "wordnet", frozenset({*others, *broader}), group
        )
