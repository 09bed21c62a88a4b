"""Times a training step of a transformers model on each of its expert implementations and on ours.

    OMP_NUM_THREADS=2 python benchmarks/transformers_experts.py > docs/results/transformers.md

OLMoE's form, width 512, and the same arithmetic for a token at every number of experts: 2 of 8
experts of 1,024, 8 of 64 or 128 of 256. Forward, language loss and backward; gradients are freed
before each step, as an optimiser does. Three ways to compute: float32; bfloat16 by autocast over
float32 weights; the whole model in bfloat16.

Every implementation has a process of its own, since what one leaves in the allocator's hands
decides how often another must ask for fresh memory; they take turns within each repeat, so that a
busy machine slows them alike. The text differs from step to step, so that loads do. Medians with
quartiles of the seconds, and of the ratio of the best of theirs in each repeat to ours; the same
ratio by processor time, which a busy machine moves less. What takes more than ``SLOW`` times the
fastest is timed in the first repeats alone. Losses on one text are compared before anything is
timed. ``batched_mm`` copies an expert's weights for every choice of every token and is left out
where that is more than ``--room``.
"""

import argparse
import multiprocessing
import os
import platform
import statistics
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import torch
import transformers
from torch import Tensor
from transformers import OlmoeConfig, OlmoeForCausalLM
from transformers.utils import logging

from turnout.integrations.transformers import use

SHAPES = {8: (2, 1024), 64: (8, 256), 128: (8, 256)}
THEIRS = ("eager", "batched_mm", "grouped_mm")
VOCABULARY, LENGTH = 1024, 256
SLOW, FEW = 4.0, 3
WAYS = ("float32", "autocast", "bfloat16")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "2")))
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048, 256])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--experts", type=int, nargs="+", default=list(SHAPES), choices=list(SHAPES)
    )
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--room", type=float, default=4.0, help="GB for one layer of batched_mm")
    return parser.parse_args()


def build(experts: int, layers: int, way: str) -> OlmoeForCausalLM:
    """Random weights, the same for each way of computing."""
    k, hidden = SHAPES[experts]
    torch.manual_seed(0)
    config = OlmoeConfig(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=8,
        num_experts=experts,
        num_experts_per_tok=k,
        eos_token_id=1,
        pad_token_id=0,
    )
    model = OlmoeForCausalLM(config)
    return model.bfloat16() if way == "bfloat16" else model


def step(model: OlmoeForCausalLM, ids: Tensor, way: str) -> tuple[float, float, float]:
    """Seconds of a forward and backward pass, those of the processor, and the loss."""
    model.zero_grad(set_to_none=True)
    started, busy = time.perf_counter(), time.process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    return time.perf_counter() - started, time.process_time() - busy, loss.item()


def copied(experts: int, tokens: int, way: str) -> float:
    """Gigabytes of weights that batched_mm copies for a layer."""
    k, hidden = SHAPES[experts]
    return tokens * k * 3 * 512 * hidden * (2 if way == "bfloat16" else 4) / 1e9


def quartiles(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def best_over_ours(times: dict[str, list[float]]) -> tuple[str, str]:
    """The best of theirs by its median, and the quartiles of its ratio to ours."""
    theirs = [name for name in THEIRS if name in times]
    best = min(theirs, key=lambda name: statistics.median(times[name]))
    return best, quartiles([a / b for a, b in zip(times[best], times["turnout"], strict=True)])


@dataclass(frozen=True)
class Cell:
    """A row of the table, and what its processes are started with."""

    experts: int
    tokens: int
    way: str
    layers: int
    threads: int


def work(name: str, cell: Cell, pipe: Connection) -> None:
    """Answers every seed of a text with the times and the loss of a step, until there is none."""
    torch.set_num_threads(cell.threads)
    logging.set_verbosity_error()
    use()
    model = build(cell.experts, cell.layers, cell.way)
    model.set_experts_implementation(name)
    while (seed := pipe.recv()) is not None:
        generator = torch.Generator().manual_seed(seed)
        shape = (cell.tokens // LENGTH, LENGTH)
        pipe.send(step(model, torch.randint(2, VOCABULARY, shape, generator=generator), cell.way))


def started(name: str, cell: Cell) -> tuple[BaseProcess, Connection]:
    """A process that works, and the pipe to it."""
    context = multiprocessing.get_context("spawn")
    pipe, other = context.Pipe()
    process = context.Process(target=work, args=(name, cell, other), daemon=True)
    process.start()
    return process, pipe


def asked(pipe: Connection, seed: int) -> tuple[float, float, float]:
    """One step of a process."""
    pipe.send(seed)
    seconds, processor, loss = pipe.recv()
    return seconds, processor, loss


def measure(cell: Cell, options: argparse.Namespace) -> str:
    """One row of the table."""
    copy = copied(cell.experts, cell.tokens, cell.way)
    names = [name for name in (*THEIRS, "turnout") if name != "batched_mm" or copy <= options.room]
    workers = {name: started(name, cell) for name in names}
    losses = {name: asked(pipe, 0)[2] for name, (_, pipe) in workers.items()}
    bound = 1e-4 if cell.way == "float32" else 2e-2
    assert max(losses.values()) - min(losses.values()) < bound, losses
    wall: dict[str, list[float]] = {name: [] for name in names}
    busy: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(options.repeats):
        if repeat == FEW:
            fastest = min(map(statistics.median, wall.values()))
            names = [name for name in names if statistics.median(wall[name]) < SLOW * fastest]
        for name in names:
            seconds, processor, _ = asked(workers[name][1], repeat + 1)
            wall[name].append(seconds)
            busy[name].append(processor)
    for process, pipe in workers.values():
        pipe.send(None)
        process.join()
    cells = [
        quartiles(wall[name]) if name in wall else f"{copy:.0f} GB" for name in (*THEIRS, "turnout")
    ]
    best, ratio = best_over_ours(wall)
    k, hidden = SHAPES[cell.experts]
    where = [cell.way, f"{k} of {cell.experts} x {hidden}", f"{cell.tokens:,}"]
    return "| " + " | ".join([*where, *cells, best, ratio, best_over_ours(busy)[1]]) + " |"


def main() -> None:
    """Prints the table as Markdown."""
    options = arguments()
    command = " ".join(["python benchmarks/transformers_experts.py", *sys.argv[1:]])
    print(
        "# A training step of a transformers model on its experts and on ours\n\n"
        f"OLMoE's form, width 512, {options.layers} layers, rows of {LENGTH} tokens: seconds of a "
        f"forward and\nbackward pass, median of {options.repeats} interleaved repeats, quartiles "
        "in brackets; and the time of the best of\ntheirs over ours, by the clock and by processor "
        "time. Where `batched_mm` has no room: what it would copy a layer.\n\n"
        f"Command: `OMP_NUM_THREADS={options.threads} {command}`;\ntorch {torch.__version__}, "
        f"transformers {transformers.__version__}, {options.threads} threads, "
        f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}.\n\n"
        "| dtype | experts | tokens | eager | batched_mm | grouped_mm | turnout | best of theirs "
        "| over ours | by processor time |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for way in options.ways:
        for tokens in options.tokens:
            for experts in options.experts:
                cell = Cell(experts, tokens, way, options.layers, options.threads)
                print(measure(cell, options), flush=True)


if __name__ == "__main__":
    main()
