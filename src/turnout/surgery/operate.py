"""An operation from its sources to a new run's folder and its receipt; nothing is left behind where
it fails."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, final

import torch
from torch import Tensor

from turnout.checkpoint import folders
from turnout.checkpoint.stream import Planned
from turnout.config import io
from turnout.config.errors import UserError
from turnout.config.train import RunConfig
from turnout.convert.api import load
from turnout.convert.conversion import SHARD, arriving
from turnout.convert.native import CARRIED, MODEL, Native, split, write_stored
from turnout.convert.source import Source
from turnout.models.base import Model
from turnout.surgery.base import Expectation, Surgery
from turnout.surgery.branches import require_alike
from turnout.surgery.changes import Kept
from turnout.surgery.compare import Comparison, compare
from turnout.surgery.opened import Opened
from turnout.surgery.plan import Plan, plan
from turnout.surgery.receipt import Origin, Receipt, Size
from turnout.surgery.rows import Rows, of_old
from turnout.surgery.states import States, described, nothing, taken_along
from turnout.train.control import Control

Optimizer = Literal["keep", "drop"]
RowsOf = Callable[[RunConfig], Rows]


@dataclass(frozen=True)
class Job:
    """An operation on models.

    Attributes:
        overrides: dotted options over the new configuration.
        optimizer: whether its state is taken along; the run then goes on at the step where it was.
        rows: what old and new are compared on, by the new configuration; None for no comparison.
    """

    surgery: Surgery
    sources: tuple[Opened, ...]
    overrides: Mapping[str, str]
    optimizer: Optimizer = "drop"
    rows: RowsOf | None = None
    shard: int = SHARD

    def planned(self) -> "Operation":
        """Everything that can be said and refused before a tensor is read.

        Raises:
            UserError: one line: what cannot be.
        """
        first = self.sources[0]
        require_alike([s.path for s in self.sources], [s.run.model for s in self.sources])
        new = io.override(self.surgery.run(first.run), self.overrides)
        keeps = self.optimizer == "keep"
        if keeps and (first.native is None or len(self.sources) > 1):
            raise UserError("--optimizer keep: goes with one run, whose state goes on")
        native = first.native
        tensors: list[Source] = [source.tensors for source in self.sources]
        if keeps and native is not None:
            tensors = [AsTrained(native)]
        found = plan(self.surgery, first.run, new, tensors)
        states = taken_along(found, native) if keeps and native is not None else nothing(found)
        expectation = self.surgery.expected(first.run.model, new.model)
        return Operation(self, found, states, tuple(tensors), expectation)


@dataclass(frozen=True)
class Operation:
    """A job that is planned."""

    job: Job
    plan: Plan
    states: States
    tensors: tuple[Source, ...]
    expectation: Expectation

    @property
    def resumable(self) -> bool:
        """Whether training can go on with what is written, on the same text."""
        first = self.job.sources[0]
        return first.has_text and self.plan.run.data == first.run.data

    def receipt(self) -> Receipt:
        """What is known before anything is measured."""
        job, first = self.job, self.job.sources[0]
        rules = self.plan.rules
        taken = sum(isinstance(rule.operation, Kept) for rule in rules)
        drawn = sum(not rule.foreign for rule in rules)
        return Receipt(
            operation=job.surgery.kind,
            arguments={**job.surgery.arguments(), **job.overrides},
            sources=tuple(map(_origin, job.sources)),
            before=Size.of(first.run.model),
            after=Size.of(self.plan.run.model),
            expected="preserved" if self.expectation.preserved else "changed",
            why=self.expectation.why,
            compared=None,
            taken=taken,
            made=len(rules) - taken - drawn,
            drawn=drawn,
            left=self.plan.left,
            optimizer=self._optimizer(),
            back=self.expectation.back,
            notes=self.expectation.notes,
        )

    def write(self, target: Path, commands: Sequence[str] = ()) -> Receipt:
        """Writes the new run's folder.

        Args:
            commands: to go on with, for the receipt; ``{out}`` stands for the folder.

        Raises:
            UserError: the target is there already, a tensor is damaged, or the function changed
                where it was not to.
        """
        receipt = self.receipt()
        filled = receipt.back.replace("{run}", str(target)).replace("{out}", f"{target}-back")
        with arriving(target) as place:
            self._write(place)
            if self.job.rows is not None:
                receipt = self._compared(receipt, place, self.job.rows(self.plan.run))
            shown = tuple(command.replace("{out}", str(target)) for command in commands)
            receipt = replace(receipt, back=filled, next=shown)
            receipt.write(place)
        return receipt

    def _write(self, place: Path) -> None:
        first = self.job.sources[0]
        meta, step = self._meta(first)
        meta |= first.keep_tokenizer(place)
        weights = [Planned(MODEL + each.name, each.dtype, each.shape) for each in self.plan.planned]
        plans = split([*weights, *self.states.planned], self.job.shard)
        write_stored(folders.step_folder(place, step), meta, plans, self._all())
        for name, path in first.carried().items():
            (place / CARRIED).mkdir(exist_ok=True)
            shutil.copyfile(path, place / CARRIED / name)

    def _all(self) -> Iterator[Tensor]:
        yield from self.plan.tensors(self.tensors)
        native = self.job.sources[0].native
        if native is not None:
            yield from self.states.tensors(native)

    def _meta(self, first: Opened) -> tuple[dict[str, Any], int]:
        """As of a run that was just begun, or that goes on where it was."""
        keeps = self.job.optimizer == "keep"
        step = int(first.meta["step"]) if keeps else 0
        batch = Control.from_json(first.meta["control"]).batch if keeps else 0
        run = self.plan.run
        meta: dict[str, Any] = {
            "step": step,
            "tokens": int(first.meta["tokens"]) if keeps else 0,
            "config": io.to_dict(run),
        }
        if self.resumable:
            # As `turnout train --resume` reads it; without the text's own digest it would refuse.
            meta |= {
                "text": first.meta["text"],
                "optimizer": described(run.optimizer.kind, self.states),
                "control": Control(batch=batch).to_json(),
                "sums": None,
                "seeds": {"train": run.train.seed, "data": run.data.seed},
            }
        return meta, step

    def _compared(self, receipt: Receipt, place: Path, rows: Rows) -> Receipt:
        dtype = torch.float64 if self.expectation.preserved else torch.float32
        new = load(place, dtype=dtype)
        labels = self.job.surgery.old_labels()
        found = [
            compare(load(source.folder, dtype=dtype), new, rows, labels)
            for source in self.job.sources
        ]
        if self.expectation.preserved:
            found[0] = self._held_to(found[0], rows)
            if not found[0].preserved:
                raise UserError(_broken(receipt, found[0]))
        origins = receipt.sources
        if len(found) > 1:
            bits = (each.bits_before for each in found)
            origins = tuple(replace(o, bits=b) for o, b in zip(origins, bits, strict=True))
        return receipt.with_comparison(found[0], origins)

    def _held_to(self, found: Comparison, rows: Rows) -> Comparison:
        """With the bound of the function's own rounding, where that is needed."""
        if found.preserved:
            return found
        folder = self.job.sources[0].folder
        exact, rounded = (load(folder, dtype=dtype) for dtype in (torch.float64, torch.float32))
        theirs = of_old(rows, self.job.surgery.old_labels())
        return found.within_rounding(compare(exact, rounded, theirs))

    def _optimizer(self) -> str:
        if self.job.optimizer == "drop":
            return "begins anew, at step 0"
        fresh, of = len(self.states.untrained), len(self.plan.parameters)
        if not fresh:
            return f"state of all {of} parameters taken along"
        return f"state of {of - fresh} of {of} parameters taken along, the others begin anew"


@final
class AsTrained(Source):
    """The weights of a checkpoint as the optimiser knows them, not their moving average."""

    def __init__(self, native: Native) -> None:
        self.config = native.config
        self.carried = native.carried
        self._native = native

    @property
    def names(self) -> list[str]:
        return self._native.names

    def planned(self, name: str) -> Planned:
        return replace(self._native.planned_as_stored(MODEL + name), name=name)

    def read(self, name: str) -> Tensor:
        return self._native.read_as_stored(MODEL + name)


def _origin(source: Opened) -> Origin:
    model = source.run.model
    return Origin(source.path, source.sha256, model.num_params(), model.num_active_params())


def _broken(receipt: Receipt, found: Comparison) -> str:
    return (
        f"{receipt.operation}: the function was to stay ({receipt.why}), and the largest logit "
        f"difference is {found.logits:.1e} of the largest logit, above {found.bound:.1e}: nothing "
        "is written; a router whose choices tie or nearly tie can do that"
    )


def loaded(source: Opened) -> Model:
    """The model of a source, in evaluation mode and float32."""
    return load(source.folder)
