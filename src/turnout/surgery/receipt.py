"""What an operation did, as plain data that a test can recompute from the two checkpoints."""

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from turnout.config.model import ModelConfig
from turnout.surgery.compare import Comparison

RECEIPT = "receipt.json"


@dataclass(frozen=True)
class Origin:
    """A model that went in.

    Attributes:
        sha256: of the checkpoint's index.
        bits: per byte of text, where several models went in and there is text.
    """

    path: str
    sha256: str
    parameters: int
    active: int
    bits: float | None = None


@dataclass(frozen=True)
class Size:
    """A model: parameters, those a token passes, experts of each sparse layer, choices a token."""

    parameters: int
    active: int
    experts: tuple[int, ...] = ()
    choices: int = 0

    @staticmethod
    def of(model: ModelConfig) -> "Size":
        moe = model.moe
        experts = [m.num_experts for stack in model.stacks() for m in stack.sparse]
        choices = 0 if moe is None else moe.router.active
        return Size(model.num_params(), model.num_active_params(), tuple(experts), choices)


@dataclass(frozen=True)
class Receipt:
    """An operation, what it was made of and what became of it.

    Attributes:
        expected: ``preserved`` or ``changed``, before anything was measured.
        why: of that.
        compared: what was measured; None for a dry run, and where it was not wanted.
        taken, made, drawn: how many tensors were taken over as they are, made of old ones, drawn.
        left: old tensors of which nothing was made.
        optimizer: what became of its state.
        back: the command that undoes it; empty where nothing does. ``{run}`` and ``{out}`` stand
            for the folders until the receipt is ``placed``.
        next: commands, with ``{out}`` alike.
    """

    operation: str
    arguments: Mapping[str, Any]
    sources: tuple[Origin, ...]
    before: Size
    after: Size
    expected: str
    why: str
    compared: Comparison | None
    taken: int
    made: int
    drawn: int
    left: tuple[str, ...]
    optimizer: str
    back: str
    notes: tuple[str, ...]
    next: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self), allow_nan=False))
        return plain

    def write(self, folder: Path) -> None:
        """``receipt.json`` in a run's folder."""
        text = json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n"
        (folder / RECEIPT).write_text(text, encoding="ascii")

    def with_comparison(self, compared: Comparison, sources: tuple[Origin, ...]) -> "Receipt":
        """The same after the models were compared."""
        return replace(self, compared=compared, sources=sources)

    def placed(self, folder: str) -> "Receipt":
        """The same with its commands' folders, where the new run is, or would be, in ``folder``."""
        back = _filled(self.back, run=folder, out=f"{folder}-back")
        return replace(self, back=back, next=tuple(_filled(each, out=folder) for each in self.next))

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """Before and after, for a table."""
        yield "parameters", f"{self.before.parameters:,}", f"{self.after.parameters:,}"
        yield "active a token", f"{self.before.active:,}", f"{self.after.active:,}"
        yield "experts a layer", _experts(self.before), _experts(self.after)
        yield "choices a token", f"{self.before.choices or '-'}", f"{self.after.choices or '-'}"
        found = self.compared
        if found is not None and found.before is not None and found.after is not None:
            yield "nats a target", f"{found.before:.4f}", f"{found.after:.4f}"
            yield "bits per byte", f"{found.bits_before:.4f}", f"{found.bits_after:.4f}"

    def lines(self) -> Iterator[str]:
        """Behind the table."""
        yield f"function: expected {self.expected}: {self.why}"
        if self.compared is not None:
            yield (
                f"  largest logit difference {self.compared.logits:.2e} of the largest logit, "
                f"KL {self.compared.divergence:.2e} nats"
            )
            yield f"  on {self.compared.rows}, {self.compared.dtype}"
        yield (
            f"tensors: {self.taken} taken over, {self.made} made, {self.drawn} drawn, "
            f"{len(self.left)} left out"
        )
        yield f"optimiser: {self.optimizer}"
        yield f"way back: {self.back or 'none'}"
        yield from (f"note: {note}" for note in self.notes)
        yield from (f"next: {command}" for command in self.next)


def _filled(template: str, **folders: str) -> str:
    """A command with folders as a shell reads them."""
    for name, folder in folders.items():
        template = template.replace(f"{{{name}}}", shlex.quote(folder))
    return template


def _experts(size: Size) -> str:
    if not size.experts:
        return "-"
    numbers = sorted(set(size.experts))
    return f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
