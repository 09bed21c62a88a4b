"""A state of known content, laid over ranks in every way: the jobs save it, and load what others
saved."""

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, _get_default_store
from torch.optim import SGD

from tests.distributed.cases import MODELS, batches_of, meshes
from tests.distributed.cases import Case as Batches
from turnout.checkpoint import durable
from turnout.checkpoint.ranks import OverStore
from turnout.checkpoint.saver import Saver
from turnout.config.objective import CausalConfig, SpanConfig
from turnout.config.optimizers import AdafactorConfig, AdamWConfig, OptimizerConfig
from turnout.config.parallel import ParallelPlan
from turnout.config.train import RunConfig, TrainConfig
from turnout.models.build import build
from turnout.objectives import build as build_objective
from turnout.parallel.ranks import ManyRanks
from turnout.train.control import Control
from turnout.train.counts import Counts
from turnout.train.ranks import Alone, Held, Ranks
from turnout.train.state import TrainState, export, resume

STEP, TOKENS, COUNT = 7, 2**53 + 1, 3.0
OPTIMIZERS: dict[str, OptimizerConfig] = {
    "adamw": AdamWConfig(),
    "adafactor": AdafactorConfig(min_factored=4),
    "sgd": AdamWConfig(),  # built by hand below: no configuration names it
}


@dataclass(frozen=True)
class Saved:
    """A kind of state: which model, and which optimiser's."""

    model: str
    optimizer: str

    @property
    def run(self) -> RunConfig:
        """The configuration that is saved beside it."""
        model = MODELS[self.model]
        return RunConfig(
            model=model,
            objective=SpanConfig() if model.kind == "encoder_decoder" else CausalConfig(),
            optimizer=OPTIMIZERS[self.optimizer],
            train=TrainConfig(average=0.9),
        )

    def wholes(self) -> dict[str, Tensor]:
        """Every tensor of the state, whole, under its global name."""
        model = build(self.run.model)
        shapes = {name: tuple(param.shape) for name, param in model.named_parameters()}
        found: dict[str, tuple[int, ...]] = {}
        for name, shape in shapes.items():
            found[f"model.{name}"] = found[f"average.{name}"] = shape
            for key, own in self._state(name, shape).items():
                found[f"optimizer.{name}.{key}"] = own
        return {name: _values(name, shape) for name, shape in found.items()}

    def _state(self, name: str, shape: tuple[int, ...]) -> Mapping[str, tuple[int, ...]]:
        if self.optimizer == "sgd":
            return {"momentum_buffer": shape}
        if self.optimizer == "adamw":
            return {"exp_avg": shape, "exp_avg_sq": shape}
        matrix = len(shape) - ("experts" in name.split(".")) >= 2 and min(shape[-2:]) >= 4
        if matrix:
            return {"row": shape[:-1], "column": (*shape[:-2], shape[-1])}
        return {"square": shape}

    def state(self, plan: ParallelPlan, name: str, seed: int) -> TrainState:
        """A fresh one on this rank, of weights of a seed; ``name`` is new for each job."""
        run, size = self.run, dist.get_world_size() if dist.is_initialized() else 1
        model = build(run.model)
        model.init_weights(seed)
        ranks: Ranks = Alone()
        if size > 1:
            rank = dist.get_rank()
            said = OverStore(PrefixStore(name, _get_default_store()), rank, size)
            ranks = ManyRanks(meshes(plan.over(size)), 1, said)
        ranks.lay_out(model)
        state = TrainState.fresh(run, model, ranks)
        if self.optimizer == "sgd":
            named = list(Held(ranks.weights(model)).named_parameters())
            state.optimizer = SGD([pair for pair in named if pair[1].requires_grad], momentum=0.9)
        return state


def _values(name: str, shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    return torch.randn(shape, generator=generator)


def own(state: TrainState, weight: str, whole: Tensor, without: int | None = None) -> Tensor | None:
    """This rank's block of a whole tensor; None where it holds none.

    That it is the block with which the model computes, the next loss shows.
    """
    if not isinstance(state.ranks, ManyRanks):
        return whole
    shard = state.ranks.layout.shards[weight]
    shard = shard if without is None else shard.without(without)
    if not shard.owned:
        return None
    for dim, (start, length) in enumerate(zip(*shard.block, strict=True)):
        whole = whole.narrow(dim, start, length)
    return whole


def blocks(state: TrainState, wholes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """This rank's blocks of all of them."""
    found = {}
    for name, whole in wholes.items():
        section, rest = name.split(".", 1)
        without = None
        if section == "optimizer":
            rest, key = rest.rsplit(".", 1)
            without = {"row": -1, "column": -2}.get(key)
        block = own(state, rest, whole, without)
        if block is not None:
            found[name] = block
    return found


def held(state: TrainState) -> dict[str, Tensor]:
    """What this rank holds, by global name."""
    optimizer = {}
    for group in state.optimizer.param_groups:
        for name, param in zip(group["param_names"], group["params"], strict=True):
            for key, value in state.optimizer.state.get(param, {}).items():
                if key != "step":
                    optimizer[f"optimizer.{name}.{key}"] = value
    return {
        **{f"model.{name}": param.detach() for name, param in state.weights.items()},
        **{f"average.{name}": tensor for name, tensor in (state.average or {}).items()},
        **optimizer,
    }


def keep(kind: Saved, plan: ParallelPlan, folder: str, name: str) -> None:
    """Job: save the known content from this layout."""
    state = kind.state(plan, name, seed=1)
    mine = blocks(state, kind.wholes())
    assert state.average is not None
    for weight, param in state.weights.items():
        with torch.no_grad():
            if f"model.{weight}" in mine:
                param.copy_(mine[f"model.{weight}"])
                state.average[weight].copy_(mine[f"average.{weight}"])
        prefix = f"optimizer.{weight}."
        keys = {n.removeprefix(prefix): t.clone() for n, t in mine.items() if n.startswith(prefix)}
        if keys and param.requires_grad:
            count = {"adamw": {"step": torch.tensor(COUNT)}, "adafactor": {"step": int(COUNT)}}
            state.optimizer.state[param] = {**count.get(kind.optimizer, {}), **keys}
    state.step, state.tokens, state.control = STEP, TOKENS, Control(batch=9)
    parts, meta = export(state, kind.run)
    Saver(state.ranks.messages).save(Path(folder), parts, meta)


def take(kind: Saved, plan: ParallelPlan, folder: str, name: str) -> tuple[list[str], float]:
    """Job: load onto this layout; what is not bit for bit as it should be, and the next loss."""
    state = kind.state(plan, name, seed=2)
    resume(state, kind.run, Path(folder))
    expected, found = blocks(state, kind.wholes()), held(state)
    wrong = [
        key
        for key, tensor in expected.items()
        if key not in found or not torch.equal(found[key], tensor)
    ]
    wrong += [key for key in found if key.startswith("optimizer.") and key not in expected]
    if (state.step, state.tokens, state.control) != (STEP, TOKENS, Control(batch=9)):
        wrong.append("the numbers")
    return wrong, next_loss(kind, state, plan)


def next_loss(kind: Saved, state: TrainState, plan: ParallelPlan) -> float:
    """The loss of a batch that all layouts share out in their way."""
    ranks = state.ranks
    own_batches = ranks.share(batches_of(Batches(kind.run.model, plan)))
    objective = build_objective(kind.run.losses, kind.run.model).over(ranks.whole_sums)
    totals = Counts.of(ranks.add(Counts.numbers(objective, own_batches)), 1).totals
    with torch.no_grad():
        sums = objective.prepare(state.model, own_batches)
        report = objective(state.model, own_batches[0], totals, sums)
    return ranks.add([float(report.total)])[0]


def refusal(kind: Saved, plan: ParallelPlan, folder: str, name: str) -> str:
    """Job: the line that loading fails with."""
    state = kind.state(plan, name, seed=2)
    before = {key: tensor.clone() for key, tensor in held(state).items()}
    try:
        resume(state, kind.run, Path(folder))
    except ValueError as error:
        after = held(state)
        assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
        return str(error)
    return ""


def fails_on(rank: int, job: Callable[..., Any], *args: Any) -> str:
    """Job: the line that ``job`` fails with on all ranks when the disk of one of them is full."""

    def full(file: Any, data: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", file.name)

    with pytest.MonkeyPatch.context() as patch:
        if dist.get_rank() == rank:
            patch.setattr(durable, "append", full)
        try:
            job(*args)
        except ValueError as error:
            return str(error)
    return ""
