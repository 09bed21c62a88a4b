"""What one training step does to its weights, counted: what is dear is done once, or not at all.

Counts and not times: they are the same on every machine. That blocks compile whole and are not
compiled again is asserted in tests/compiled.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.kernels.cases import BUILDS, PRODUCTS
from tests.models.cases import CASES, batch_for
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from turnout import objectives
from turnout.config import presets
from turnout.config.moe import MoEConfig
from turnout.config.train import RunConfig
from turnout.data.batch import Batch
from turnout.kernels.grouped import GROUPED
from turnout.models.build import build
from turnout.moe.products import grouped_product
from turnout.train.optim import role_of
from turnout.train.state import TrainState
from turnout.train.step import optimiser_step

LENGTHS, EXPERTS = [16, 9], 7
READ = frozenset({"detach", "view", "t", "transpose", "alias", "_unsafe_view", "unbind"})
UPDATED = frozenset({"_fused_adamw_"})


def storages(tree: object) -> Iterator[int]:
    """Of all tensors of a tree."""
    for leaf in tree_leaves(tree):
        if isinstance(leaf, Tensor):
            yield leaf.untyped_storage().data_ptr()


class Counts(TorchDispatchMode):
    """Counts what is made of each weight: casts, and other tensors of its size that are no view;
    and remembers the shapes of all that is made."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.names = {weight.untyped_storage().data_ptr(): n for n, weight in weights.items()}
        self.sizes = {name: weight.numel() for name, weight in weights.items()}
        self.casts: Counter[str] = Counter()
        self.copies: Counter[tuple[str, str]] = Counter()
        self.kept: list[Tensor] = []
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        read = {self.names[place] for place in storages((args, kwargs)) if place in self.names}
        out = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self.shapes.update(tuple(tensor.shape) for tensor in made)
        for name in read if func._opname not in READ | UPDATED else ():
            for tensor in made:
                if tensor.numel() < self.sizes[name]:
                    continue
                if func._opname == "_to_copy":
                    self.casts[name] += 1
                    self.names[tensor.untyped_storage().data_ptr()] = name
                    self.kept.append(tensor)  # lest its place be another's later
                else:
                    self.copies[name, func._opname] += 1
        return out


def run_of(name: str, dtype: str, experts: int = EXPERTS) -> RunConfig:
    """One micro-batch, all losses that a preset has."""
    model = CASES[name]
    assert isinstance(model.moe, MoEConfig)
    moe = replace(model.moe, num_experts=experts)
    objective = "span" if model.kind == "encoder_decoder" else "causal"
    run = presets.run("switch_tiny", objective)  # type: ignore[arg-type]
    train = replace(run.train, batch_rows=2, micro_batches=1, dtype=dtype, average=0.0)
    return replace(run, model=replace(model, moe=moe), train=train)


def counted(run: RunConfig, batch: Batch) -> Counts:
    """A step behind the first."""
    model = build(run.model, dtype=getattr(torch, run.train.dtype))
    model.init_weights(0)
    state = TrainState.fresh(run, model)
    objective = objectives.build(run.losses, run.model)
    optimiser_step(state, objective, [batch], run)
    with Counts(dict(model.named_parameters())) as counts:
        report = optimiser_step(state, objective, [batch], run)
    assert not report.skipped
    return counts


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["switch", "olmoe", "sparse_glam"])
def test_a_weight_is_cast_once_a_step_and_experts_are_not_copied(name: str, dtype: str) -> None:
    run = run_of(name, dtype)
    counts = counted(run, batch_for(run.model, LENGTHS, LENGTHS))
    experts = {weight for weight in counts.sizes if role_of(weight) == "experts"}
    assert experts
    most = Counter() if dtype == "float32" else Counter(dict.fromkeys(counts.sizes, 1))
    assert counts.casts <= most, counts.casts
    assert dtype == "float32" or all(counts.casts[weight] == 1 for weight in experts)
    copied = {op for weight, op in counts.copies if weight in experts}
    assert copied <= {"grouped_product"}, copied  # of so few entries, rows times them are more


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"] if BUILDS else [])
def test_kernels_in_c_need_no_cast_of_an_expert(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GROUPED, "preferred", GROUPED.dtypes)
    run = run_of("switch", dtype)
    counts = counted(run, batch_for(run.model, LENGTHS, LENGTHS))
    experts = {weight for weight in counts.sizes if role_of(weight) == "experts"}
    assert experts and not experts & counts.casts.keys()
    assert {op for weight, op in counts.copies if weight in experts} <= {"grouped_product"}


def tables(dispatcher: str) -> set[tuple[int, ...]]:
    """Shapes with an entry for each expert, and for several times as many pairs as there are
    tokens, that are no weight's."""
    run = run_of("switch", "float32")
    assert run.model.moe is not None
    moe = replace(run.model.moe, dispatcher=dispatcher, train_capacity_factor=2.0)
    run = replace(run, model=replace(run.model, moe=moe))
    counts = counted(run, batch_for(run.model, LENGTHS, LENGTHS))
    weights = {tuple(weight.shape) for weight in build(run.model).parameters()}
    most = 2 * EXPERTS * 2 * 16  # twice [T, E]
    found = {s for s in counts.shapes if EXPERTS in s and torch.Size(s).numel() > most}
    return found - weights


def test_nothing_has_tokens_experts_and_slots_at_once() -> None:
    """A table [T, E, C] is what the einsum dispatcher is made of, and no other."""
    assert not tables("sorted")
    assert tables("einsum")


@pytest.mark.parametrize("backend", [name for name in PRODUCTS if name != "padded_bmm"])
def test_no_backend_copies_a_matrix_in_its_product(backend: Any) -> None:
    """Inside of the operator, where a dispatch mode does not see: 5 matrices of 24 x 40."""
    rows, weight = torch.randn(64, 24), torch.randn(5, 24, 40)
    offsets = torch.tensor([8, 20, 20, 34, 64], dtype=torch.int32)  # never 24 or 40 rows
    grouped_product(rows, weight, offsets, backend)
    with torch.profiler.profile(record_shapes=True) as profile:
        grouped_product(rows, weight, offsets, backend)
    copies = [
        (event.name, event.input_shapes)
        for event in profile.events()
        if event.name in ("aten::copy_", "aten::clone", "aten::_to_copy")
        and any(list(shape)[-2:] in ([24, 40], [40, 24]) for shape in event.input_shapes)
    ]
    assert not copies
