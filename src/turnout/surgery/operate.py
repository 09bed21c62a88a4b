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
from turnout.config.model import ModelConfig
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
from turnout.surgery.opened import Opened, require_one_text
from turnout.surgery.plan import Plan, plan
from turnout.surgery.receipt import Origin, Receipt, Size
from turnout.surgery.rows import Rows, of_old
from turnout.surgery.states import States, described, nothing, taken_along
from turnout.train.control import Control

Optimizer = Literal["keep", "drop"]
RowsOf = Callable[[RunConfig], Rows]
TIES = 1e-3  # of the largest logit: more than choices that tie are likely to make


@dataclass(frozen=True)
class Job:
    """An operation on models.

    Attributes:
        overrides: dotted options over the new configuration.
        optimizer: whether its state is taken along; the run then goes on at the step where it was.
        rows: what old and new are compared on, by the new configuration; None for no comparison.
        command: what the program is called by, in commands that are printed.
    """

    surgery: Surgery
    sources: tuple[Opened, ...]
    overrides: Mapping[str, str]
    optimizer: Optimizer = "drop"
    rows: RowsOf | None = None
    shard: int = SHARD
    command: str = "turnout"

    def planned(self) -> "Operation":
        """Everything that can be said and refused before a tensor is read.

        Raises:
            UserError: one line: what cannot be.
        """
        first = self.sources[0]
        require_alike([s.path for s in self.sources], [s.run.model for s in self.sources])
        notes = require_one_text(self.sources)
        for name in self.overrides:
            _check_own(name)
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
        if keeps and not _same_text(first, new):
            raise UserError(
                f"--optimizer keep: goes on in the text of {first.path} where it stopped, and the "
                "new run's data is another; leave it out, and the optimiser begins anew"
            )
        expectation = _expectation(self.surgery, first.run.model, new.model)
        expectation = replace(expectation, notes=(*expectation.notes, *notes, *_widened(found)))
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
        return _same_text(self.job.sources[0], self.plan.run)

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
            back=self.expectation.back.replace("{turnout}", job.command),
            notes=(*self.expectation.notes, *self._left_behind()),
        )

    def write(self, target: Path, commands: Sequence[str] = ()) -> Receipt:
        """Writes the new run's folder.

        Args:
            commands: to go on with, for the receipt; ``{out}`` stands for the folder.

        Raises:
            UserError: the target is there already, a tensor is damaged, or the function changed
                where it was not to.
        """
        receipt = replace(self.receipt(), next=tuple(commands)).placed(str(target))
        with arriving(target) as place:
            self._write(place)
            if self.job.rows is not None:
                receipt = self._compared(receipt, place, self.job.rows(self.plan.run))
            receipt.write(place)
        return receipt

    def _left_behind(self) -> tuple[str, ...]:
        """What the way back does not undo."""
        names = [f"--{name}" for name in self.job.overrides]
        if not names or not self.expectation.back:
            return ()
        return (f"the way back leaves {', '.join(names)} as it is in the new run",)

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
                raise UserError(_broken(receipt, found[0], self.job.overrides))
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


def _broken(receipt: Receipt, found: Comparison, overrides: Mapping[str, str]) -> str:
    options = [f"--{name}" for name in overrides if name.startswith("model.")]
    cause = ""
    if options:
        cause = f"; leave out {', '.join(options)}, which can change the function"
    elif found.logits < TIES:
        cause = "; a router whose choices tie or nearly tie can do that"
    return (
        f"{receipt.operation}: the function was to stay ({receipt.why}), and the largest logit "
        f"difference is {found.logits:.1e} of the largest logit, above {found.bound:.1e}: nothing "
        f"is written{cause}"
    )


def _check_own(name: str) -> None:
    """An option that says how weights are trained has no effect on what surgery writes."""
    if name.partition(".")[0] in ("lora", "start", "distillation") or name == "train.trained":
        raise UserError(
            f"--{name.replace('_', '-')}: goes with training, as in `turnout finetune`; surgery "
            "makes weights that stand alone"
        )


def _same_text(first: Opened, new: RunConfig) -> bool:
    return first.has_text and new.data == first.run.data


def _expectation(surgery: Surgery, old: ModelConfig, new: ModelConfig) -> Expectation:
    """The surgery's own, unless an option changes what evaluation multiplies experts by."""
    found = surgery.expected(old, new)
    if old.moe is None or new.moe is None or old.moe.output_masking == new.moe.output_masking:
        return found
    why = "evaluation multiplies what experts add by 1 - model.moe.output_masking, which is another"
    return replace(found, preserved=False, why=why if found.preserved else found.why)


def _widened(found: Plan) -> tuple[str, ...]:
    if not found.widened:
        return ()
    return (
        f"{len(found.widened)} tensors such as {found.widened[0]} are float32, wider than before: "
        "what they are multiplied by is no power of two, and rounding would change the function",
    )


def loaded(source: Opened) -> Model:
    """The model of a source, in evaluation mode and float32."""
    return load(source.folder)
