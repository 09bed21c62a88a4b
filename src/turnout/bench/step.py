"""Whole training steps of a Switch Transformer against its dense twin and transformers.

T5 of width 512: 6 + 6 layers, every other one sparse, vocabulary 32,128, a batch of 8 rows of 512
and 114 tokens, without dropout and dropless; forward, loss, backward, clipping and AdamW. Ours is
the trainer's own step with all that it reports. Theirs is a loop as one writes it: AdamW in its
fused form, bfloat16 by autocast. Both begin with the same weights, and their losses on the first
two batches, the second behind an update, are compared before anything is timed.

The arithmetic of a step is counted from the model's configuration. Memory is what a step has alive
at most beyond weights, gradients and optimiser state (``bench.memory``).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from turnout import objectives
from turnout.bench.equal import UnequalError
from turnout.bench.machine import Rates
from turnout.bench.memory import beyond
from turnout.bench.models import Size
from turnout.bench.options import Options
from turnout.bench.peers import transformers_switch
from turnout.bench.peers.installed import INSTALL, installed
from turnout.bench.suite import Cells, Contest, Suite
from turnout.bench.timing import Times, Work
from turnout.config import presets
from turnout.config.arithmetic import step_flops
from turnout.config.losses import LossConfig
from turnout.config.optimizers import AdamWConfig
from turnout.config.schedules import Constant
from turnout.config.train import RunConfig
from turnout.data.batch import Batch, Stream
from turnout.models import Model
from turnout.train.state import TrainState
from turnout.train.step import optimiser_step

LENGTHS = (512, 114)  # of an encoder's row and of a decoder's: span corruption in T5
RATE = 1e-4
ADAMW = AdamWConfig(learning_rate=RATE, weight_decay=0.0)
BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 2e-2}  # of a loss, in nats
AFTER_UPDATE = 5  # times as far apart: an update of AdamW is a step of RATE whatever the gradient
OURS, THEIRS, DENSE = "turnout", "transformers", "dense twin"


@final
@dataclass(frozen=True)
class StepSuite(Suite):
    """One contest for every number of experts and dtype, the dense model first."""

    name: ClassVar[str] = "step"

    def contests(self, options: Options) -> Iterator[Contest]:
        for experts, dtype in product((0, *options.experts), options.dtypes):
            size = Size.of(options, experts)
            for rows in options.rows:
                yield contest(size, getattr(torch, dtype), rows, options.peers)


def contest(size: Size, dtype: torch.dtype, rows: int, peers: bool) -> Contest:
    """All ways, the losses of ours and theirs compared first.

    Raises:
        UnequalError: a loss differs.
    """
    model = size.model(dtype)
    ways: dict[str, Work] = {OURS: our_step(model, rows)}
    flops = {OURS: step_flops(model.config, rows)}
    differences, memory, left_out = {}, {}, {}
    if peers and installed("transformers"):
        foreign = transformers_switch.like(size, model)
        flops[THEIRS] = flops[OURS]
        ways[THEIRS] = their_step(foreign, size.vocabulary, rows, dtype)
        differences[THEIRS] = compare(ways[OURS], ways[THEIRS], dtype)
        memory[THEIRS] = beyond(ways[THEIRS], foreign.parameters())
    elif peers:
        left_out["transformers"] = f"not installed; {INSTALL}"
    memory[OURS] = beyond(ways[OURS], model.parameters())
    if size.experts:
        dense = size.twin.model(dtype)
        ways[DENSE] = our_step(dense, rows)
        flops[DENSE] = step_flops(dense.config, rows)
        memory[DENSE] = beyond(ways[DENSE], dense.parameters())
    return Contest(
        facts={
            "dtype": str(dtype).removeprefix("torch."),
            "E": size.experts or "dense",
            "rows": rows,
        },
        dtype=dtype,
        ways=ways,
        bases=(DENSE, OURS) if size.experts else (OURS,),
        differences=differences,
        flops=flops,
        left_out=left_out,
        cells=lambda times, rates: _cells(times, rates, memory),
    )


def _cells(times: Times, rates: Rates, memory: dict[str, int]) -> Cells:
    return {way: {"activations, MB": size / 1e6} for way, size in memory.items()}


def compare(ours: Work, theirs: Work, dtype: torch.dtype) -> float:
    """The larger difference of two losses, of the first batch and of the second.

    Raises:
        UnequalError: it is too large.
    """
    most = 0.0
    for step, factor in ((1, 1), (2, AFTER_UPDATE)):
        one, other = (float(str(work())) for work in (ours, theirs))
        if not abs(one - other) <= factor * BOUNDS[dtype]:
            raise UnequalError(
                f"step {step}: the losses are {one} and {other}, at most "
                f"{factor * BOUNDS[dtype]:g} apart are allowed; nothing was timed"
            )
        most = max(most, abs(one - other))
    return most


def our_step(model: Model, rows: int) -> Work:
    """One step of the trainer on another batch each time; gives the loss."""
    run = _run(model, rows)
    state = TrainState.fresh(run, model)
    objective = objectives.build(run.losses, run.model)

    def work() -> float:
        given = [batch(run.model.vocab_size, rows, state.step)]
        return optimiser_step(state, objective, given, run).loss

    return work


def their_step(model: Any, vocabulary: int, rows: int, dtype: torch.dtype) -> Work:
    """The same, as one writes it for a model of transformers."""
    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=RATE,
        betas=(ADAMW.beta1, ADAMW.beta2),
        eps=ADAMW.epsilon,
        weight_decay=0.0,
        fused=True,
    )
    steps = iter(range(1 << 30))

    def work() -> float:
        given = batch(vocabulary, rows, next(steps))
        assert given.encoder is not None
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits = model(
                input_ids=given.encoder.ids, decoder_input_ids=given.decoder.ids, use_cache=False
            ).logits
        loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), given.targets.flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return work


def batch(vocabulary: int, rows: int, seed: int) -> Batch:
    """Random tokens; targets are the decoder's, which it reads behind a start."""
    generator = torch.Generator().manual_seed(seed)
    source, target = (
        torch.randint(2, vocabulary, (rows, length), generator=generator) for length in LENGTHS
    )
    read = torch.cat([torch.zeros(rows, 1, dtype=torch.int64), target[:, :-1]], dim=1)
    row = torch.arange(rows)
    return Batch(_stream(read), target, torch.ones_like(target).bool(), row, row, _stream(source))


def _stream(ids: Tensor) -> Stream:
    position = torch.arange(ids.shape[1]).expand(ids.shape).contiguous()
    return Stream(ids, torch.ones_like(ids).bool(), torch.ones_like(ids), position)


def _run(model: Model, rows: int) -> RunConfig:
    """AdamW at one rate from the first step, and the language loss alone."""
    run = presets.run("switch_tiny", "span")
    losses = LossConfig(balance=0.0, router_z=0.0, head_z=0.0)
    train = replace(run.train, batch_rows=rows, micro_batches=1, average=0.0, clip_norm=1.0)
    return replace(
        run,
        model=model.config,
        losses=losses,
        train=train,
        optimizer=ADAMW,
        schedule=Constant(warmup=0),
    )
