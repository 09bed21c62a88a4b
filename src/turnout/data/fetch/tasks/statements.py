"""Statements that are true or false, from the facts: two of a relation that change answers."""

from collections.abc import Iterator, Sequence

from turnout.data.fetch.tasks.facts import choose, known_facts
from turnout.data.fetch.tasks.questions import (
    MEMORY,
    SPLITS,
    TRAIN,
    Built,
    Question,
    Sources,
    ask,
    generator,
    pairs,
    shuffled,
    split_of_name,
)
from turnout.data.fetch.tasks.relations import RELATIONS, Fact

PREFIX = "true or false:"
FACTS = 6_000
MEMORIES = 2_000
_ANSWERS = ("true", "false")


def statements(sources: Sources, seed: int, total: int = FACTS) -> Built:
    """Two statements of every one of about ``total`` facts, one true and one false.

    Each subject and each answer occurs once in a true and once in a false statement. ``memory``
    states again, in words held out of training, what was stated there.

    Raises:
        ValueError: a file is damaged.
    """
    questions: dict[str, list[Question]] = {split: [] for split in (*SPLITS, MEMORY)}
    for relation, some in choose(known_facts(sources), seed, total).items():
        *ways, held_out = RELATIONS[relation].states
        random_ = generator(seed, "boolean", relation)
        for split in SPLITS:
            here = [fact for fact in some if split_of_name(fact.entity, seed) == split]
            for stated, answer, right in _crossed(here):
                questions[split].append(_question(stated, answer, right, random_.choice(ways)))
                if split == TRAIN:
                    questions[MEMORY].append(_question(stated, answer, right, held_out))
    mixed = {split: shuffled(some, generator(seed, split)) for split, some in questions.items()}
    mixed[MEMORY] = mixed[MEMORY][: MEMORIES * total // FACTS]
    return Built(
        mixed, {"held_out_templates": {name: RELATIONS[name].states[-1] for name in RELATIONS}}
    )


def _crossed(some: Sequence[Fact]) -> Iterator[tuple[Fact, str, bool]]:
    for one, other in pairs(some, _clash, len(some)):
        for fact, wrong in ((one, other.answer), (other, one.answer)):
            yield fact, fact.answer, True
            yield fact, wrong, False


def _clash(one: Fact, other: Fact) -> bool:
    """Whether the answer of one would be right for the other, or nearly, or is the other."""
    return _fits(one.answer, other) or _fits(other.answer, one)


def _fits(answer: str, fact: Fact) -> bool:
    right = (fact.answer, fact.subject, *fact.also, *fact.near)
    return answer.casefold() in {name.casefold() for name in right}


def _question(fact: Fact, answer: str, right: bool, way: str) -> Question:
    text = way.replace("{0}", "\0").replace("{1}", answer).replace("\0", fact.subject)
    return ask(f"{PREFIX} {text}", _ANSWERS, _ANSWERS[not right], fact.relation, fact.entity)
