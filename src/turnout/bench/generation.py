"""Greedy generation against the dense twin and against transformers, on the same weights.

Prefill is the encoder and the first token; decode the steps from the first token to the last;
generate all of it, a token's time with its share of the encoder's. Weights are in the compute
dtype, ours packed (``models.prepared``) and the step compiled, before the clock starts.
transformers runs with its static cache and with its dynamic one; its Switch model has one
implementation of the experts.

No generation is faster than the floor: the bytes of weights that the steps must read over the
measured bandwidth, and the encoder's arithmetic over the measured peak.

Before anything is timed the tokens are compared. Where they part, the largest logit must lead the
one that was taken by no more than rounding does.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from turnout.bench.equal import UnequalError
from turnout.bench.machine import Rates
from turnout.bench.models import Size
from turnout.bench.options import DECODE, GENERATE, PREFILL, Options
from turnout.bench.peers import transformers_switch
from turnout.bench.peers.installed import INSTALL, installed
from turnout.bench.suite import Cells, Contest, Suite
from turnout.bench.timing import Part, Spread, Times, Work
from turnout.config.flops import stack_flops
from turnout.config.model import EncoderDecoderConfig
from turnout.generate import GenerateOptions, generate, stream
from turnout.generate.prompts import batch_of, left_padded
from turnout.models import Model, prepared

PROMPT = 128
TIE = {torch.float32: 1e-4, torch.bfloat16: 0.25}  # of logits
OURS, PLAIN, DENSE = "turnout", "turnout, not compiled", "dense twin"
THEIRS = {cache: f"transformers, {cache} cache" for cache in transformers_switch.CACHES}

Logits = Callable[[int, list[int]], Tensor]
"""Of the next token of a row, behind tokens that were written."""


@final
@dataclass(frozen=True)
class GenerationSuite(Suite):
    """One contest for every number of experts, dtype, number of rows and mode.

    Attributes:
        compiled: whether our steps of decoding are compiled.
    """

    compiled: bool = True
    name: ClassVar[str] = "generation"

    def contests(self, options: Options) -> Iterator[Contest]:
        for experts, dtype, rows, mode in product(
            options.experts, options.dtypes, options.rows, options.modes
        ):
            new = 1 if mode == PREFILL else options.new
            compiled = self.compiled and new > 1
            case = Case(Size.of(options, experts), getattr(torch, dtype), rows, new, mode, compiled)
            yield contest(case, options.peers)


@dataclass(frozen=True)
class Case:
    """A contest to be made: ``rows`` prompts, and ``new`` tokens behind each."""

    size: Size
    dtype: torch.dtype
    rows: int
    new: int
    mode: str
    compiled: bool

    @property
    def steps(self) -> int:
        """Tokens whose time counts."""
        return self.new - 1 if self.mode == DECODE else self.new

    @property
    def options(self) -> GenerateOptions:
        """Greedy, by the fastest steps."""
        return GenerateOptions(self.new, compile=self.compiled and _has_compiler())

    def ids(self) -> Tensor:
        """Prompts [B, S]."""
        generator = torch.Generator().manual_seed(self.rows)
        return torch.randint(2, self.size.vocabulary, (self.rows, PROMPT), generator=generator)


def contest(case: Case, peers: bool) -> Contest:
    """All ways, their tokens compared first.

    Raises:
        UnequalError: tokens part where rounding cannot part them.
    """
    torch.compiler.reset()  # graphs of models that are gone
    original = case.size.model(case.dtype).eval()
    ids = case.ids()
    prompts, plain = ids.tolist(), replace(case.options, compile=False)
    foreign = None
    if peers and installed("transformers"):
        foreign = transformers_switch.like(case.size, original).to(case.dtype)
    distinct = Distinct.of(original)
    expected = generate(original, prompts, plain)
    distinct.close()
    model = prepared(original)
    dense = prepared(case.size.twin.model(case.dtype).eval())
    logits = _our_logits(original, ids) if foreign is None else _their_logits(foreign, ids)
    texts: dict[str, Work] = {OURS: lambda: generate(model, prompts, case.options)}
    ways = {
        OURS: _ours(model, prompts, case.options, case.mode),
        DENSE: _ours(dense, prompts, case.options, case.mode),
    }
    if case.options.compile:
        texts[PLAIN] = lambda: generate(model, prompts, plain)
        ways[PLAIN] = _ours(model, prompts, plain, case.mode)
    if foreign is not None:
        expected = transformers_switch.tokens(foreign, ids, case.new, "static")
        for cache, way in THEIRS.items():
            texts[way] = _theirs(foreign, ids, case.new, cache, GENERATE)
            ways[way] = _theirs(foreign, ids, case.new, cache, case.mode)
    found = {way: text() for way, text in texts.items()}
    ways[DENSE]()  # its compiler, before the clock starts
    tie = TIE[case.dtype]
    agreed = {way: agreement(way, each, expected, logits, tie) for way, each in found.items()}
    same = {way: {"same tokens": f"{rows} of {case.rows}"} for way, (rows, _) in agreed.items()}
    floor = Floor.of(case.size.config(), case, distinct.mean)
    return Contest(
        facts=_facts(case),
        dtype=case.dtype,
        ways=ways,
        bases=(DENSE, OURS) if foreign is None else (OURS, DENSE),
        differences={way: lead for way, (_, lead) in agreed.items()},
        parts=case.steps,
        unit="ms a token",
        left_out={} if foreign or not peers else {"transformers": f"not installed; {INSTALL}"},
        cells=lambda times, rates: _cells(times, rates, floor, same, case.steps),
    )


def _ours(model: Model, prompts: list[list[int]], options: GenerateOptions, mode: str) -> Work:
    if mode != DECODE:
        return lambda: generate(model, prompts, options)

    def steps() -> Part:
        marks = [time.perf_counter() for _ in stream(model, prompts, options)]
        return Part(marks[-1] - marks[0])

    return steps


def _theirs(foreign: Any, ids: Tensor, new: int, cache: str, mode: str) -> Work:
    work = transformers_switch.steps if mode == DECODE else transformers_switch.tokens
    return lambda: work(foreign, ids, new, cache)


def _facts(case: Case) -> dict[str, str | int | float]:
    return {
        "dtype": str(case.dtype).removeprefix("torch."),
        "mode": case.mode,
        "E": case.size.experts,
        "rows": case.rows,
        "compiled": "yes" if case.options.compile else "no",
    }


def _has_compiler() -> bool:
    return any(shutil.which(name) for name in ("c++", "g++", "clang++"))


@dataclass(frozen=True)
class Floor:
    """What no generation can do without.

    Attributes:
        size: bytes of weights that the steps of the new tokens read.
        flops: of the encoder, where it is timed.
    """

    size: float
    flops: int

    @staticmethod
    def of(config: EncoderDecoderConfig, case: Case, distinct: float) -> "Floor":
        """Of a case, whose sparse layers read ``distinct`` experts in a step, on average."""
        encoder = stack_flops(config.stacks()[0], case.rows, PROMPT).total
        encoder = 0 if case.mode == DECODE else encoder
        return Floor(case.steps * step_bytes(config, distinct, case.dtype.itemsize), encoder)

    def seconds(self, rates: Rates) -> float:
        """At the rates that the machine reached."""
        return self.size / rates.bandwidth + self.flops / rates.peak


def step_bytes(config: EncoderDecoderConfig, distinct: float, itemsize: int) -> float:
    """Bytes of the matrices that one step of the decoder reads.

    In every layer four of attention and two of cross-attention, whose keys and values stand in the
    cache; the two of the network, or of each of the ``distinct`` experts; once the head. Routers,
    which are float32, norms, and the cache itself are left out.
    """
    attention, width = config.attention, config.d_model
    projection = width * attention.num_heads * attention.head_dim
    network = 2 * width * config.feed_forward.d_ff
    sparse = len(config.moe.placement.sparse_layers(config.decoder_layers)) if config.moe else 0
    networks = config.decoder_layers - sparse + distinct * sparse
    elements = 6 * projection * config.decoder_layers + network * networks
    return itemsize * (elements + config.vocab_size * width)


class Distinct:
    """Counts the experts that the decoder's sparse layers use in a step."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self._handles: list[Any] = []

    @staticmethod
    def of(model: Any) -> "Distinct":
        """Watches the routers of a model until it is closed."""
        found = Distinct()
        for block in model.decoder.blocks:
            if block.feed_forward.sparse_layers():
                router = block.feed_forward.moe.router
                found._handles.append(router.register_forward_hook(found._see))
        return found

    @property
    def mean(self) -> float:
        """Over layers and steps; 0 where nothing was counted."""
        return sum(self.counts) / max(len(self.counts), 1)

    def close(self) -> None:
        """Watch no longer."""
        for handle in self._handles:
            handle.remove()

    def _see(self, router: Any, given: Any, out: Any) -> None:
        self.counts.append(int(out[0].expert.unique().numel()))


def _cells(times: Times, rates: Rates, floor: Floor, same: Cells, new: int) -> Cells:
    """Same tokens; the floor, and how far above it ours and a third of theirs are."""
    least = floor.seconds(rates)
    cells: dict[str, dict[str, Any]] = {way: dict(each) for way, each in same.items()}
    cells[OURS]["floor, ms"] = 1e3 * least / new
    for way in cells:
        took = Spread.of(times.seconds[way]).median
        cells[way]["over the floor"] = took / least
        if way in THEIRS.values():
            cells[way]["a third of it over the floor"] = took / 3 / least
    return cells


def agreement(
    way: str, found: Any, expected: list[list[int]], logits: Logits, tie: float
) -> tuple[int, float]:
    """Rows whose tokens are the same, and the largest lead of an expected token where they part.

    Raises:
        UnequalError: a lead is above ``tie``.
    """
    same, most = 0, 0.0
    for row, (one, other) in enumerate(zip(found, expected, strict=True)):
        parted = next((n for n, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), None)
        if parted is None:
            same += 1
            continue
        scores = logits(row, other[:parted])
        lead = float(scores.max() - scores[one[parted]])
        if not lead <= tie:
            raise UnequalError(
                f"{way}: row {row}, token {parted}: {one[parted]} is {lead:.2g} below the best, "
                f"at most {tie:.2g} is rounding; nothing was timed"
            )
        most = max(most, lead)
    return same, most


def _our_logits(model: Model, ids: Tensor) -> Logits:
    @torch.no_grad()
    def logits(row: int, written: list[int]) -> Tensor:
        here = torch.device("cpu")
        read = left_padded([[0, *written]], here)
        batch = batch_of(read, left_padded([ids[row].tolist()], here), label=None)
        output = model(batch, observed=False)
        scores: Tensor = output.head.logits(output.hidden[:, -1])
        return scores[0]

    return logits


def _their_logits(foreign: Any, ids: Tensor) -> Logits:
    @torch.no_grad()
    def logits(row: int, written: list[int]) -> Tensor:
        read = torch.tensor([[0, *written]])
        found: Tensor = foreign(input_ids=ids[row : row + 1], decoder_input_ids=read).logits[0, -1]
        return found

    return logits
