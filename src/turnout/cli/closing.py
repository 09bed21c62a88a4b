"""What a finished run says: how well it does, beside what needs no model, and what to type next."""

import json
import math
from collections.abc import Callable, Mapping
from functools import singledispatch
from pathlib import Path

from turnout.cli.arguments import command
from turnout.cli.lengths import room
from turnout.cli.samples import answer
from turnout.config.errors import UserError
from turnout.config.generation import GenerateOptions
from turnout.config.objective import CausalConfig, PrefixConfig, SpanConfig, TextToTextConfig
from turnout.probe.report.records import SAMPLES
from turnout.probe.run import unit
from turnout.train.report import Evaluation
from turnout.train.session import Session

PROMPTS = ("def ", "import ", "class ")
BLANKS = (
    "import os\nimport sys\n\n\ndef main(path):\n    if not os.path.exists(___):\n"
    '        raise ValueError("no such ___")\n    with open(path) as file:\n'
    "        return ___.read()\n",
)
SHORT_BLANKS = ("def ___(self):\n    return ___.___\n",)
NEW_TOKENS = 96
TEMPERATURE = 0.5


def closing(
    session: Session,
    evaluation: Evaluation,
    folder: Path,
    baselines: Mapping[str, float],
    picture: Callable[[], str],
) -> str:
    """Validation figures beside the baselines on the same split, samples, the next command.

    ``baselines`` are bits per byte of text, as ``probe.run.baselines`` measures them;
    ``picture`` draws the run, when its samples are there, and says where its picture is.
    """
    objective = session.config.objective
    lines = [
        "",
        f"validation loss {evaluation.loss:.4f} nats a target ({evaluation.targets:,} targets, "
        f"{evaluation.dropped:.1%} dropped), after {evaluation.step} steps",
        *_beside(evaluation, baselines, unit(session.config)),
        *_no_ngrams(session),
        "",
        *(
            samples(session, folder)
            if math.isfinite(evaluation.loss)
            else ["no samples: the loss is not finite"]
        ),
        picture(),
        f"next: {_next(objective, folder)}",
    ]
    return "\n".join(lines) + "\n"


def samples(session: Session, folder: Path) -> list[str]:
    """Three prompts completed, or three blanks filled; the first set of prompts that fits.

    They are kept in the run's folder, for its report.
    """
    tokenizer = session.data.tokenizer
    longest = 1 + max(len(tokenizer.encode(prompt)) for prompt in PROMPTS)
    options = GenerateOptions(
        max_new_tokens=room(session.config.model, longest, NEW_TOKENS),
        temperature=TEMPERATURE,
    )
    reason = "no samples: the questions are yours to ask"
    for prompts in _prompts(session.config.objective):
        try:
            objective = session.config.objective
            texts = answer(session.state.model, tokenizer, objective, list(prompts), options)
        except UserError as error:
            reason = f"no samples: {error}"
            continue
        kept = [{"prompt": p, "text": text} for p, text in zip(prompts, texts, strict=True)]
        (folder / SAMPLES).write_text(json.dumps(kept, indent=1) + "\n", encoding="ascii")
        lines = [line for text in texts for line in (*_indented(text), "")]
        return [_title(session.config.objective), *lines]
    return [reason, ""]


def _indented(text: str) -> list[str]:
    return [f"    {line}" for line in text.splitlines()]


def _beside(evaluation: Evaluation, baselines: Mapping[str, float], unit: str) -> list[str]:
    rows = {"this model": evaluation.bits, **dict(sorted(baselines.items(), key=_bits))}
    return [f"  {name:<28}{bits:.3f} {unit}" for name, bits in rows.items()]


def _no_ngrams(session: Session) -> list[str]:
    reason = session.data.no_ngrams()
    return [f"  no byte n-gram beside it: {reason}"] if reason else []


def _bits(baseline: tuple[str, float]) -> float:
    return baseline[1]


@singledispatch
def _prompts(objective: object) -> tuple[tuple[str, ...], ...]:
    raise TypeError(f"no samples for {type(objective).__name__}")


@_prompts.register
def _(objective: CausalConfig | PrefixConfig) -> tuple[tuple[str, ...], ...]:
    return (PROMPTS,)


@_prompts.register
def _(objective: SpanConfig) -> tuple[tuple[str, ...], ...]:
    return BLANKS, SHORT_BLANKS


@_prompts.register
def _(objective: TextToTextConfig) -> tuple[tuple[str, ...], ...]:
    # What may be asked of such a model is known from its examples alone.
    return ()


@singledispatch
def _title(objective: object) -> str:
    raise TypeError(f"no samples for {type(objective).__name__}")


@_title.register
def _(objective: CausalConfig | PrefixConfig) -> str:
    return "three prompts, completed:"


@_title.register
def _(objective: SpanConfig) -> str:
    return "three blanks, filled in [brackets]:"


@singledispatch
def _next(objective: object, folder: Path) -> str:
    raise TypeError(f"no command for {type(objective).__name__}")


@_next.register
def _(objective: CausalConfig | PrefixConfig, folder: Path) -> str:
    return f'{command()} generate {folder} --prompt "def main("'


@_next.register
def _(objective: SpanConfig, folder: Path) -> str:
    return f'{command()} generate {folder} --prompt "for i in ___(10):"'


@_next.register
def _(objective: TextToTextConfig, folder: Path) -> str:
    return f'{command()} generate {folder} --prompt "inputs such as those of the examples"'
