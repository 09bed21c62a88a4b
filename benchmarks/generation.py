"""Times greedy generation against transformers, on the same weights.

    OMP_NUM_THREADS=2 python benchmarks/generation.py > docs/results/generation.md

The Switch shape of T5 of width 512: 6 + 6 layers, every other one sparse, vocabulary 32,128. Both
read the same prompts of 128 tokens and write 64. transformers runs with its static cache and with
its dynamic one; its Switch model has one implementation of the experts. Weights are in the compute
dtype, ours packed (``models.prepared``) and the step compiled, before the clock starts. Each repeat
times all in turn, so that a busy machine slows them alike; medians of the ratios, with the
quartiles. How long the matrix products of one more call take is what the profiler says.

Before anything is timed the tokens are compared. Where they part, the largest logit must lead the
one that was taken by no more than ``TIE``, rounding alone, or the run ends with an error.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import transformers
from torch import Tensor
from transformers import SwitchTransformersConfig, SwitchTransformersForConditionalGeneration

from turnout.config.attention import AttentionConfig
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.model import EncoderDecoderConfig
from turnout.config.moe import MoEConfig
from turnout.generate import GenerateOptions, generate
from turnout.models import Model, build, prepared

PROMPT = 128
TIE = {torch.float32: 1e-4, torch.bfloat16: 0.25}
CACHES = ("static", "dynamic")
PRODUCTS = ("mkldnn::_linear_pointwise", "aten::mm", "aten::addmm", "aten::bmm")
LETTERS = {"q": "query", "k": "key", "v": "value", "o": "out"}


@dataclass(frozen=True)
class Size:
    """What is timed."""

    width: int
    layers: int
    vocabulary: int
    experts: int


def ours(size: Size, dtype: torch.dtype) -> Model:
    """The model with weights that make its choices far from even."""
    config = EncoderDecoderConfig(
        vocab_size=size.vocabulary,
        d_model=size.width,
        encoder_layers=size.layers,
        decoder_layers=size.layers,
        attention=AttentionConfig(size.width // 64, 64, scaled=False),
        feed_forward=FeedForwardConfig(4 * size.width),
        moe=MoEConfig(size.experts, init_scale=1.0),
    )
    model = build(config, dtype=dtype)
    model.init_weights(0)
    return model.eval()


def theirs(size: Size, model: Model) -> SwitchTransformersForConditionalGeneration:
    """The model of transformers with the weights of ``model``, every one of them."""
    config = SwitchTransformersConfig(
        vocab_size=size.vocabulary,
        d_model=size.width,
        d_kv=64,
        d_ff=4 * size.width,
        num_layers=size.layers,
        num_decoder_layers=size.layers,
        num_sparse_encoder_layers=size.layers // 2,
        num_sparse_decoder_layers=size.layers // 2,
        num_heads=size.width // 64,
        num_experts=size.experts,
        expert_capacity=1 << 20,
        dropout_rate=0.0,
        router_jitter_noise=0.0,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=None,
    )
    foreign = SwitchTransformersForConditionalGeneration(config).eval()
    parameters = dict(foreign.named_parameters())
    named = weights(model)
    assert parameters.keys() == named.keys(), parameters.keys() ^ named.keys()
    with torch.no_grad():
        for name, value in named.items():
            parameters[name].copy_(value)
    return foreign.to(model.dtype)


def weights(model: Model) -> dict[str, Tensor]:
    """The weights of ``model`` by the names that transformers gives them."""
    named = {"shared.weight": model.embedding.weight.detach()}
    for stack in model.stacks():
        top = stack.shape.name
        bias = f"{top}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        named[bias] = stack.position_bias.weight
        named[f"{top}.final_layer_norm.weight"] = stack.norm.weight
        for number, block in enumerate(stack.blocks):
            parts = [block.self_attention, block.cross_attention, block.feed_forward]
            for place, part in enumerate(part for part in parts if part is not None):
                layer = f"{top}.block.{number}.layer.{place}"
                named[f"{layer}.layer_norm.weight"] = part.norm.weight
                if part is not block.feed_forward:
                    kind = "EncDecAttention" if part is block.cross_attention else "SelfAttention"
                    for letter, linear in zip(
                        "qkvo", ("query", "key", "value", "out"), strict=True
                    ):
                        weight = getattr(part.attention, linear).weight
                        named[f"{layer}.{kind}.{letter}.weight"] = weight
                elif part.sparse_layers():
                    named[f"{layer}.mlp.router.classifier.weight"] = part.moe.router.weight
                    experts = zip(part.moe.experts.w_in, part.moe.experts.w_out, strict=True)
                    for expert, (w_in, w_out) in enumerate(experts):
                        mlp = f"{layer}.mlp.experts.expert_{expert}"
                        named |= {f"{mlp}.wi.weight": w_in.t(), f"{mlp}.wo.weight": w_out.t()}
                else:
                    named[f"{layer}.mlp.wi.weight"] = part.network.w_in
                    named[f"{layer}.mlp.wo.weight"] = part.network.w_out
    return named


def their_tokens(
    foreign: SwitchTransformersForConditionalGeneration, ids: Tensor, new: int, cache: str
) -> list[list[int]]:
    """Greedy tokens, without the start."""
    written = foreign.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new,
        min_new_tokens=new,
        do_sample=False,
        cache_implementation=None if cache == "dynamic" else cache,
    )
    return written[:, 1:].tolist()


@torch.no_grad()
def check(
    foreign: SwitchTransformersForConditionalGeneration,
    ids: Tensor,
    found: list[list[int]],
    expected: list[list[int]],
) -> int:
    """Rows whose tokens are the same; raises where others differ by more than a tie."""
    same = 0
    for row, (one, other) in enumerate(zip(found, expected, strict=True)):
        parted = next((n for n, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), None)
        if parted is None:
            same += 1
            continue
        read = torch.tensor([[0, *other[:parted]]])
        logits = foreign(input_ids=ids[row : row + 1], decoder_input_ids=read).logits[0, -1]
        lead = float(logits.max() - logits[one[parted]])
        if lead > TIE[foreign.dtype]:
            raise SystemExit(
                f"row {row}, token {parted}: {one[parted]} is {lead:.2g} below the best"
            )
    return same


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(size: Size, dtype: torch.dtype, batch: int, new: int, repeats: int) -> str:
    """One row of the table."""
    model = ours(size, dtype)
    foreign = theirs(size, model)
    generator = torch.Generator().manual_seed(batch)
    model = prepared(model)
    ids = torch.randint(2, size.vocabulary, (batch, PROMPT), generator=generator)
    prompts, options = ids.tolist(), GenerateOptions(new)
    expected = their_tokens(foreign, ids, new, "static")
    check(foreign, ids, generate(model, prompts, options), expected)
    same = check(foreign, ids, generate(model, prompts, replace(options, compile=True)), expected)
    compiled = replace(options, compile=True)
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: generate(model, prompts, compiled),
        "plain": lambda: generate(model, prompts, options),
    }
    ways |= {
        cache: lambda cache=cache: their_tokens(foreign, ids, new, cache)  # type: ignore[misc]
        for cache in CACHES
    }
    for way in ways.values():
        way()
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            times[name].append(seconds(way))
    cells = []
    for name in CACHES:
        ratios = [t / o for t, o in zip(times[name], times["ours"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        cells.append(
            f"{1e3 * statistics.median(times[name]) / new:.1f} | "
            f"{middle:.2f} ({low:.2f} to {high:.2f})"
        )
    mine = [1e3 * statistics.median(times[name]) / new for name in ("ours", "plain")]
    return (
        f"| {str(dtype).removeprefix('torch.')} | {size.experts} | {batch} | {mine[0]:.1f} | "
        f"{1e3 * products(ways['ours']) / new:.1f} | {mine[1]:.1f} | {' | '.join(cells)} | "
        f"{same} of {batch} |"
    )


def products(work: Callable[[], object]) -> float:
    """Seconds of one call that pass in matrix products."""
    with torch.profiler.profile() as profile:
        work()
    return 1e-6 * sum(e.self_cpu_time_total for e in profile.key_averages() if e.key in PRODUCTS)


def main() -> None:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--vocabulary", type=int, default=32128)
    parser.add_argument("--experts", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "2")))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("# Greedy generation against transformers\n")
    print(
        f"Milliseconds a step, encoder and all, for {options.new} tokens behind prompts of "
        f"{PROMPT}; and the time of transformers over ours: median of {options.repeats} "
        f"interleaved repeats, quartiles in brackets. Its experts have one implementation for "
        f"this model, a loop.\n\n"
        f"Command: `OMP_NUM_THREADS={options.threads} python benchmarks/generation.py`; width "
        f"{options.width}, {options.layers} + {options.layers} layers, vocabulary "
        f"{options.vocabulary}; torch {torch.__version__}, "
        f"transformers {transformers.__version__}, {platform.machine()}, "
        f"{torch.backends.cpu.get_cpu_capability()}.\n"
    )
    print(
        "| dtype | E | batch | ours, ms | its products, ms | not compiled, ms | static cache, ms | "
        "over ours | dynamic cache, ms | over ours | same tokens |"
    )
    print("|" + "---|" * 11)
    for experts in options.experts:
        size = Size(options.width, options.layers, options.vocabulary, experts)
        for dtype in (torch.float32, torch.bfloat16):
            for batch in options.batch:
                row = measure(size, dtype, batch, options.new, options.repeats)
                print(row, flush=True)


if __name__ == "__main__":
    main()
