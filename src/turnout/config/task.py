"""What a task asks: a few lines of TOML over the examples of a data set, in T5's text-to-text form.

Text is made by templates such as ``"cb hypothesis: {hypothesis} premise: {premise}"``, which
``turnout.evaluate.template`` fills; a field of a nested table is ``{answers.text}``.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from turnout.config.errors import ConfigError, nearest, require

METRICS = ("exact_match", "f1", "rouge_l", "bleu", "chrf", "pearson")
EXTRAS = ("matthews", "f1")  # beside accuracy, of two labels; the second one counts as positive
FOLDER = "."


@dataclass(frozen=True)
class Splits:
    """What the splits are called: the stem of a ``.jsonl`` file, or a name on the hub."""

    train: str = "train"
    validation: str = "validation"
    test: str = "test"

    def __post_init__(self) -> None:
        for name in ("train", "validation", "test"):
            require(bool(getattr(self, name)), f"splits.{name}", "", "the name of a split")


@dataclass(frozen=True)
class ChoicesTask:
    """The likeliest of some answers.

    Attributes:
        inputs: a template.
        choices: templates, one an answer; or the name of a field that holds a list of them.
        answer: the field that says which one is right: its place from 0, its text, or its name.
        names: what ``answer`` calls the choices: a list, or the name of a field that holds one.
        metrics: of two labels, beside the accuracy.
        domain: a field; scores are told for each of its values too.
        source: a folder of ``SPLIT.jsonl``, a ``.jsonl`` file, a pattern of such, or
            ``hf:NAME[:CONFIG]``; paths are seen from the folder of the task's file.
    """

    kind: ClassVar[str] = "choices"
    inputs: str
    choices: str | tuple[str, ...]
    answer: str
    name: str = ""
    description: str = ""
    source: str = FOLDER
    names: str | tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    domain: str = ""
    splits: Splits = field(default_factory=Splits)

    def __post_init__(self) -> None:
        listed = self.choices if isinstance(self.choices, tuple) else ()
        wanted = "a list of at least two different templates, or the name of a field with a list"
        given = len(set(listed)) == len(listed) >= 2 if listed else bool(self.choices)
        require(given, "choices", self.choices, wanted)
        require(bool(self.answer), "answer", self.answer, "the name of a field")
        for metric in self.metrics:
            _known("metrics", metric, EXTRAS)
        require(
            not self.metrics or len(listed) == 2,
            "metrics",
            list(self.metrics),
            "left out unless choices is a list of two",
        )


@dataclass(frozen=True)
class GenerateTask:
    """An answer in words: greedy, until the end, a stop or ``max_tokens``.

    Attributes:
        inputs, targets: templates; ``targets`` is what a shot shows, or the first reference.
        references: a field with a right answer or a list of them; by default ``targets`` is one.
        stop: texts that end an answer. Without any, a model that goes on with text ends at the end
            of a line, one that was trained on examples where it ends by itself.
        domain, source: as of ``ChoicesTask``.
    """

    kind: ClassVar[str] = "generate"
    inputs: str
    targets: str = ""
    name: str = ""
    description: str = ""
    source: str = FOLDER
    references: str = ""
    metrics: tuple[str, ...] = ("exact_match",)
    max_tokens: int = 32
    stop: tuple[str, ...] = ()
    domain: str = ""
    splits: Splits = field(default_factory=Splits)

    def __post_init__(self) -> None:
        given = bool(self.targets or self.references)
        require(given, "targets", "", "a template", "or give a field of references")
        require(bool(self.metrics), "metrics", [], f"at least one of {', '.join(METRICS)}")
        for metric in self.metrics:
            _known("metrics", metric, METRICS)
        require(self.max_tokens >= 1, "max_tokens", self.max_tokens, "at least 1")
        require("" not in self.stop, "stop", "", "a text of at least one character")


@dataclass(frozen=True)
class TextTask:
    """Text alone: perplexity and bits per byte.

    Attributes:
        targets: a template of the text.
        inputs: text in front of it that is not scored.
        domain, source: as of ``ChoicesTask``.
    """

    kind: ClassVar[str] = "text"
    targets: str
    inputs: str = ""
    name: str = ""
    description: str = ""
    source: str = FOLDER
    domain: str = ""
    splits: Splits = field(default_factory=Splits)


Task = ChoicesTask | GenerateTask | TextTask


def _known(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        hint = nearest(value, allowed)
        fix = hint if hint.startswith("did") else ""
        raise ConfigError(name, value, f"one of {', '.join(allowed)}", fix)
