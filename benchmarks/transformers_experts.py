"""Times a training step of a transformers model on each of its expert implementations and on ours.

    OMP_NUM_THREADS=2 python benchmarks/transformers_experts.py > docs/results/transformers.md

OLMoE's form, width 512, and the same arithmetic for a token at every number of experts: 2 of 8
experts of 1,024, 8 of 64 or 128 of 256. Forward, language loss and backward; gradients are freed
before each step, as an optimiser does. Three ways to compute: float32; bfloat16 by autocast over
float32 weights; the whole model in bfloat16.

Every implementation takes its turn within each repeat, so that a busy machine slows them alike. The
text differs from step to step, so that loads do, also between implementations: with the same loads
one would meet the kernels that oneDNN compiled for another. Medians with quartiles of the seconds,
and of the ratio of the best of theirs in each repeat to ours; the same ratio by processor time,
which a busy machine moves less. What takes more than ``SLOW`` times the fastest is timed in the
first repeats alone. Losses on one text are compared before anything is timed. ``batched_mm`` copies
an expert's weights for every choice of every token and is left out where that is more than
``--room``.
"""

import argparse
import os
import platform
import statistics
import sys
import time

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


def measure(experts: int, tokens: int, way: str, options: argparse.Namespace) -> str:
    """One row of the table."""
    fits = copied(experts, tokens, way) <= options.room
    names = [name for name in (*THEIRS, "turnout") if name != "batched_mm" or fits]
    model = build(experts, options.layers, way)
    generator = torch.Generator().manual_seed(0)
    wall: dict[str, list[float]] = {name: [] for name in names}
    busy: dict[str, list[float]] = {name: [] for name in names}
    shape = (tokens // LENGTH, LENGTH)
    same = torch.randint(2, VOCABULARY, shape, generator=generator)
    losses = {}
    for name in names:
        model.set_experts_implementation(name)
        losses[name] = step(model, same, way)[2]
    bound = 1e-4 if way == "float32" else 2e-2
    assert max(losses.values()) - min(losses.values()) < bound, losses
    for repeat in range(options.repeats):
        if repeat == FEW:
            fastest = min(map(statistics.median, wall.values()))
            names = [name for name in names if statistics.median(wall[name]) < SLOW * fastest]
        for name in names:
            ids = torch.randint(2, VOCABULARY, shape, generator=generator)
            model.set_experts_implementation(name)
            seconds, processor, _ = step(model, ids, way)
            wall[name].append(seconds)
            busy[name].append(processor)
    no_room = f"{copied(experts, tokens, way):.0f} GB"
    cells = [quartiles(wall[name]) if name in wall else no_room for name in (*THEIRS, "turnout")]
    best, ratio = best_over_ours(wall)
    k, hidden = SHAPES[experts]
    where = [way, f"{k} of {experts} x {hidden}", f"{tokens:,}"]
    return "| " + " | ".join([*where, *cells, best, ratio, best_over_ours(busy)[1]]) + " |"


def main() -> None:
    """Prints the table as Markdown."""
    options = arguments()
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    use()
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
                print(measure(experts, tokens, way, options), flush=True)


if __name__ == "__main__":
    main()
