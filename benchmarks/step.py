"""Times whole training steps of a Switch Transformer against its dense twin and transformers.

    OMP_NUM_THREADS=2 python benchmarks/step.py > docs/results/step.md

T5 of width 512: 6 + 6 layers, every other one sparse, vocabulary 32,128, a batch of 8 rows of 512
and 114 tokens, without dropout and dropless; forward, loss, backward, clipping and AdamW. Ours is
the trainer's own step with all that it reports. Theirs is a loop as one writes it: AdamW in its
fused form, bfloat16 by autocast. Both begin with the same weights, and their losses on the first
batch are compared before anything is timed.

All ways in turn within each repeat, so that a busy machine slows them alike, and beside them a
product of two matrices of 2,048 by the fastest library: the peak that the arithmetic of a step,
counted from the model's configuration, is held against. Freed memory is kept, for all.
"""

import argparse
import os
import platform
from dataclasses import dataclass, replace

import torch
import transformers
from generation import Size, ours, theirs
from timing import Times, Work, interleaved
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration

from turnout import objectives
from turnout.config import presets
from turnout.config.arithmetic import step_flops
from turnout.config.losses import LossConfig
from turnout.config.model import ModelConfig
from turnout.config.optimizers import AdamWConfig
from turnout.config.train import RunConfig
from turnout.data.batch import Batch, Stream
from turnout.models import Model, build
from turnout.nn import onednn
from turnout.train.host_memory import keep_freed_memory
from turnout.train.state import TrainState
from turnout.train.step import optimiser_step

ROWS, LENGTHS, PEAK = 8, (512, 114), 2048
RATE = 1e-4


@dataclass(frozen=True)
class Contest:
    """Ways to take a step, and the arithmetic of each."""

    ways: dict[str, Work]
    flops: dict[str, int]


def stream(ids: Tensor) -> Stream:
    position = torch.arange(ids.shape[1]).expand(ids.shape).contiguous()
    return Stream(ids, torch.ones_like(ids).bool(), torch.ones_like(ids), position)


def batch(vocabulary: int, seed: int) -> Batch:
    """Random tokens; targets are the decoder's, which it reads behind a start."""
    generator = torch.Generator().manual_seed(seed)
    source, target = (
        torch.randint(2, vocabulary, (ROWS, length), generator=generator) for length in LENGTHS
    )
    read = torch.cat([torch.zeros(ROWS, 1, dtype=torch.int64), target[:, :-1]], dim=1)
    rows = torch.arange(ROWS)
    return Batch(stream(read), target, torch.ones_like(target).bool(), rows, rows, stream(source))


def run_of(model: ModelConfig) -> RunConfig:
    """AdamW and the losses of papers at their least: the language loss alone."""
    run = presets.run("switch_tiny", "span")
    losses = LossConfig(balance=0.0, router_z=0.0, head_z=0.0)
    train = replace(run.train, batch_rows=ROWS, micro_batches=1, average=0.0, clip_norm=1.0)
    optimizer = AdamWConfig(learning_rate=RATE, weight_decay=0.0)
    return replace(run, model=model, losses=losses, train=train, optimizer=optimizer)


def our_step(model: Model, vocabulary: int) -> Work:
    """One step of the trainer on another batch each time; gives the loss."""
    run = run_of(model.config)
    state = TrainState.fresh(run, model)
    objective = objectives.build(run.losses, run.model)

    def work() -> float:
        return optimiser_step(state, objective, [batch(vocabulary, state.step)], run).loss

    return work


def their_step(model: nn.Module, vocabulary: int, dtype: torch.dtype) -> Work:
    """The same, as one writes it for a model of transformers."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0, fused=True)
    steps = iter(range(1 << 30))

    def work() -> float:
        given = batch(vocabulary, next(steps))
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits = model(
                input_ids=given.encoder.ids, decoder_input_ids=given.decoder.ids, use_cache=False
            ).logits
        loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), given.targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return work


def dense_twin(size: Size) -> Model:
    """Ours without experts."""
    config = replace(ours(size, torch.float32).config, moe=None)
    model = build(config)
    model.init_weights(0)
    return model


def contest(sizes: dict[str, Size], dtype: torch.dtype, peers: bool) -> Contest:
    """All ways, each pair of ours and theirs compared first."""
    found = Contest({"peak": peak(dtype)}, {})
    first = next(iter(sizes.values()))
    dense = build(replace(dense_twin(first).config), dtype=dtype)
    dense.init_weights(0)
    add(found, "dense", dense, None, first, dtype)
    if peers:
        config = T5Config(
            vocab_size=first.vocabulary,
            d_model=first.width,
            d_kv=64,
            d_ff=4 * first.width,
            num_layers=first.layers,
            num_heads=first.width // 64,
            dropout_rate=0.0,
        )
        foreign = T5ForConditionalGeneration(config)
        found.ways["dense, transformers"] = their_step(foreign, first.vocabulary, dtype)
        found.ways["dense, transformers"]()
    for name, size in sizes.items():
        model = ours(size, dtype)
        moe = replace(model.config.moe, train_capacity_factor=None)
        whole = build(replace(model.config, moe=moe), dtype=dtype)
        whole.load_state_dict(model.state_dict())
        foreign = theirs(size, model).float() if peers else None
        add(found, name, whole, foreign, size, dtype)
    return found


def add(
    found: Contest,
    name: str,
    model: Model,
    foreign: nn.Module | None,
    size: Size,
    dtype: torch.dtype,
) -> None:
    """Ours and, where there is one, theirs; their losses on the first batch agree."""
    found.flops[name] = step_flops(model.config, ROWS)
    found.ways[name] = our_step(model, size.vocabulary)
    loss = found.ways[name]()
    if foreign is not None:
        found.ways[f"{name}, transformers"] = their_step(foreign, size.vocabulary, dtype)
        theirs_loss = found.ways[f"{name}, transformers"]()
        bound = 1e-4 if dtype == torch.float32 else 2e-2
        if abs(loss - theirs_loss) > bound:
            raise SystemExit(f"{name}: the losses are {loss} and {theirs_loss}")


def peak(dtype: torch.dtype) -> Work:
    """Four products of two square matrices, by the fastest library."""
    left, right = (torch.randn(PEAK, PEAK).to(dtype) for _ in range(2))
    return lambda: [onednn.fastest(left, right) for _ in range(4)]


def rows(times: Times, found: Contest, dtype: torch.dtype) -> list[str]:
    """The table's rows of one dtype."""
    most = 4 * 2 * PEAK**3 / times.spread("peak").median
    lines = []
    for name, flops in found.flops.items():
        seconds, other = times.spread(name), f"{name}, transformers"
        against = [times.spread(other), times.ratio(other, name)] if other in found.ways else "--"
        lines.append(
            f"| {str(dtype).removeprefix('torch.')} | {name} | {seconds} | "
            f"{times.ratio(name, 'dense')} | {flops / seconds.median / most:.0%} | "
            f"{against[0]} | {against[1]} |"
        )
    lines.append(f"| {str(dtype).removeprefix('torch.')} | peak: {most / 1e9:,.0f} GFLOP/s |||||")
    return lines


def main() -> None:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experts", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "2")))
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--no-peers", action="store_true", help="without transformers")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    print("# A training step against the dense twin, the peak and transformers\n")
    print(
        f"Seconds of a whole step, median of {options.repeats} interleaved repeats, quartiles in "
        f"brackets.\n\nCommand: `OMP_NUM_THREADS={options.threads} python benchmarks/step.py "
        f"--repeats {options.repeats}`; torch {torch.__version__}, transformers "
        f"{transformers.__version__}, {platform.machine()}, "
        f"{torch.backends.cpu.get_cpu_capability()}.\n"
    )
    print("| dtype | model | ours, s | over dense | of the peak | transformers, s | over ours |")
    print("|" + "---|" * 7)
    sizes = {f"{experts} experts": Size(512, 6, 32128, experts) for experts in options.experts}
    for dtype in (getattr(torch, name) for name in options.dtypes):
        found = contest(sizes, dtype, not options.no_peers)
        times = interleaved(found.ways, options.repeats)
        print("\n".join(rows(times, found, dtype)), flush=True)


if __name__ == "__main__":
    main()
