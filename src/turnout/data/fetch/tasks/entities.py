"""Entities under all their names: facts of Italy and of the Italian Republic are of one."""

from collections.abc import Iterable
from dataclasses import replace
from typing import final

from turnout.data.fetch.tasks.questions import canonical
from turnout.data.fetch.tasks.relations import Fact


def united(found: Iterable[Fact], aliases: Iterable[tuple[str, str]]) -> list[Fact]:
    """The facts, each of the entity that any name of its own entity stands for.

    Entities that share a name are one, and so are those that share one with the same third. It is
    called as the first of its facts calls it.

    Args:
        aliases: two names of one thing each, beside the ``names`` of facts.
    """
    facts = list(found)
    groups = _Groups()
    for one, other in aliases:
        groups.join(canonical(one), canonical(other))
    for fact in facts:
        for name in fact.names:
            groups.join(canonical(name), canonical(fact.entity))
    called: dict[str, str] = {}
    for fact in facts:
        called.setdefault(groups.first(canonical(fact.entity)), fact.entity)
    return [replace(fact, entity=called[groups.first(canonical(fact.entity))]) for fact in facts]


@final
class _Groups:
    """Names that are joined, by a name that stands for each group (union-find)."""

    def __init__(self) -> None:
        self._above: dict[str, str] = {}

    def first(self, name: str) -> str:
        """The name that stands for the group of ``name``."""
        while name in self._above:
            above = self._above[name]
            if above in self._above:
                self._above[name] = self._above[above]
            name = above
        return name

    def join(self, one: str, other: str) -> None:
        """Make one group of two."""
        one, other = self.first(one), self.first(other)
        if one != other:
            self._above[one] = other
