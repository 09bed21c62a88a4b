"""A sparse layer against the dense layer of equal arithmetic, and against other libraries' layers.

A layer of experts four times as wide as the model, dropless. The dense network has k times that
width, on the same tokens. Weights are float32 and cast to the dtype of the tokens in every step, in
all; other libraries do that by autocast. Gradients are freed before each step, as an optimiser
does. The router's weights are drawn so that loads are uneven.

"experts alone" are given rows that are sorted already: what the layer takes beyond them are router,
sort and combine. Where the other library drops beyond a capacity it is given the least one with
which it drops nothing; it stands in the table.

Axes: B batch, S sequence, D width, T tokens, E experts, K choices, C capacity.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import ClassVar, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from turnout.bench.equal import BOUNDS, UnequalError, difference
from turnout.bench.machine import Rates
from turnout.bench.options import BOTH, Options
from turnout.bench.peers.base import LayerPeer
from turnout.bench.peers.installed import INSTALL, installed
from turnout.bench.suite import Cells, Contest, Suite
from turnout.bench.timing import Times, Work
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.moe import MoEConfig
from turnout.config.routers import SwitchRouter, TopKRouter
from turnout.moe.build import build_layer
from turnout.moe.context import RoutingContext
from turnout.moe.layer import MoELayer
from turnout.nn.feed_forward import FeedForward

TIMES_WIDER = 4
ROW = 256  # tokens of a row at most: what others route at once
DENSE, OURS, EXPERTS = "dense", "turnout", "experts alone"


@dataclass(frozen=True)
class Case:
    """A contest to be made; ``tokens`` are those of an expert."""

    width: int
    experts: int
    tokens: int
    k: int
    dtype: torch.dtype
    mode: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """B, S and D of the tokens: equal rows of ``ROW`` tokens at most."""
        total = max(self.experts * self.tokens // self.k, 1)
        row = next(size for size in range(min(ROW, total), 0, -1) if total % size == 0)
        return total // row, row, self.width

    @property
    def flops(self) -> int:
        """Of the products of a call, the router's left out, which no dense layer has."""
        batch, length, width = self.shape
        forward = 2 * 2 * batch * length * self.k * width * TIMES_WIDER * width
        return forward * (3 if self.mode == BOTH else 1)


def sparse_layer(case: Case) -> MoELayer:
    """Drawn from torch's generator, float32, dropless."""
    router = SwitchRouter() if case.k == 1 else TopKRouter(case.k)
    config = MoEConfig(case.experts, router, train_capacity_factor=None, init_scale=1.0)
    network = FeedForwardConfig(TIMES_WIDER * case.width)
    layer = build_layer(config, d_model=case.width, feed_forward=network)
    nn.init.normal_(layer.router.get_parameter("weight"), std=0.05)
    return layer


@final
@dataclass(frozen=True)
class LayerSuite(Suite):
    """One contest for every combination of the knobs."""

    peers: tuple[LayerPeer, ...]
    name: ClassVar[str] = "layer"

    def contests(self, options: Options) -> Iterator[Contest]:
        for dtype, mode, k, tokens, experts in product(
            options.dtypes, options.modes, options.k, options.tokens, options.experts
        ):
            case = Case(options.width, experts, tokens, k, getattr(torch, dtype), mode)
            if k <= experts:
                yield contest(case, self.peers if options.peers else (), options.room)


def contest(case: Case, peers: tuple[LayerPeer, ...], room: float) -> Contest:
    """All ways, ours and each peer's compared first.

    Args:
        room: GB that a peer may need.

    Raises:
        UnequalError: outputs, or the gradients of the tokens, differ.
    """
    torch.manual_seed(0)
    layer, dense = sparse_layer(case), FeedForward(case.width, _dense_config(case))
    dense.init_weights()
    x, upstream = (torch.randn(case.shape).to(case.dtype) for _ in range(2))
    routed = Routed.of(layer, x, case)
    differences = {OURS: against_loop(layer, x, routed)}
    rows = x.flatten(0, 1)[routed.token].requires_grad_()
    x.requires_grad_()
    # Statistics are for training: nobody reads them behind a forward pass alone.
    context = replace(routed.context, observed=case.mode == BOTH)
    ways: dict[str, Work] = {
        DENSE: _work(case, dense, x, upstream),
        OURS: _work(case, _Whole(layer, context), x, upstream),
        EXPERTS: _work(case, _Alone(layer, routed.offsets), rows, torch.randn_like(rows)),
    }
    left_out: dict[str, str] = {}
    for peer in peers:
        if not peer.takes(case.k):
            continue
        reason = _reason(peer, case, routed, room)
        if reason:
            left_out[peer.name] = reason
            continue
        foreign = _Cast(peer.layer(layer, routed.capacity, case.shape[1]), case.dtype)
        differences[peer.name] = against_ours(peer.name, foreign, layer, x, routed)
        ways[peer.name] = _work(case, foreign, x, upstream)
    return Contest(
        facts=_facts(case, routed),
        dtype=case.dtype,
        ways=ways,
        bases=(DENSE, OURS),
        differences=differences,
        flops={DENSE: case.flops, OURS: case.flops, EXPERTS: case.flops},
        left_out=left_out,
        warm=2,
        patience=20.0,
        cells=_beyond,
    )


def _beyond(times: Times, rates: Rates) -> Cells:
    """What router, sort and combine take of the layer."""
    share = 1 - 1 / times.ratio(OURS, EXPERTS).median
    return {OURS: {"router, sort, combine": f"{share:.0%}"}}


def _facts(case: Case, routed: "Routed") -> Mapping[str, str | int | float]:
    return {
        "dtype": str(case.dtype).removeprefix("torch."),
        "mode": case.mode,
        "k": case.k,
        "E": case.experts,
        "tokens an expert": case.tokens,
        "largest load": round(routed.uneven, 2),
        "C of others": routed.capacity,
    }


def _dense_config(case: Case) -> FeedForwardConfig:
    return FeedForwardConfig(case.k * TIMES_WIDER * case.width)


def _reason(peer: LayerPeer, case: Case, routed: "Routed", room: float) -> str:
    """Why a peer does not take part, if it does not."""
    if not installed(peer.name):
        return f"not installed; {INSTALL}"
    tokens = case.shape[0] * case.shape[1]
    needed = peer.needed(tokens, case.experts, routed.capacity, case.k) / 1e9
    if needed > room:
        return f"its tables of tokens, experts and slots need {needed:.1f} GB; --room {room:g}"
    return ""


@dataclass(frozen=True)
class Routed:
    """How the layer routes the tokens.

    Attributes:
        token: of every assignment, sorted by expert [T K].
        offsets: ends of the experts' rows [E].
        uneven: the largest load over the mean.
        capacity: slots an expert needs in every row so that nothing is dropped.
        settled: tokens whose choices no rounding of the logits can change [T].
    """

    context: RoutingContext
    token: Tensor
    offsets: Tensor
    uneven: float
    capacity: int
    settled: Bool[Tensor, " T"]

    @staticmethod
    @torch.no_grad()
    def of(layer: MoELayer, x: Float[Tensor, "B S D"], case: Case) -> "Routed":
        """Asks the layer's router."""
        context = RoutingContext.of(torch.ones(x.shape[:2], dtype=torch.bool))
        chosen = layer.router(x, context)[0]
        order = chosen.expert.argsort(stable=True)
        load = torch.bincount(chosen.expert, minlength=case.experts)
        place = chosen.token // x.shape[1] * case.experts + chosen.expert
        logits = x.flatten(0, 1).float() @ layer.router.get_parameter("weight").float().t()
        return Routed(
            context=context,
            token=chosen.token[order],
            offsets=load.cumsum(0).to(torch.int32),
            uneven=float(load.max() / load.double().mean()),
            capacity=int(torch.bincount(place).max()),
            settled=_settled(logits, case.k, x.dtype),
        )


def _settled(logits: Float[Tensor, "T E"], k: int, dtype: torch.dtype) -> Bool[Tensor, " T"]:
    """Tokens whose chosen and other logits are further apart than roundings in ``dtype`` can move
    them: those of the logits, and those of probabilities, which move a logit by eps."""
    if k == logits.shape[1]:
        return torch.ones(len(logits), dtype=torch.bool)
    ordered = logits.sort(dim=1, descending=True).values
    rounding = 2 * torch.finfo(dtype).eps * (1 + logits.abs().amax(1))
    return ordered[:, k - 1] - ordered[:, k] > rounding


@torch.no_grad()
def against_loop(layer: MoELayer, x: Float[Tensor, "B S D"], routed: Routed) -> float:
    """The layer's difference from a loop over its experts.

    Raises:
        UnequalError: it is too large.
    """
    assignment, _ = layer.router(x, routed.context)
    flat = x.flatten(0, 1)
    expected = torch.zeros_like(flat, dtype=torch.float32)
    w_in, w_out = (layer.experts.get_parameter(name) for name in ("w_in", "w_out"))
    for expert in range(layer.experts.num_experts):
        own = assignment.expert == expert
        hidden = torch.relu(flat[assignment.token[own]] @ w_in[expert].to(x.dtype))
        out = (hidden @ w_out[expert].to(x.dtype)) * assignment.weight[own].unsqueeze(1)
        expected.index_add_(0, assignment.token[own], out.float())
    found = layer(x, routed.context)[0].flatten(0, 1)
    return difference("a loop over its experts", expected, found, BOUNDS[x.dtype])


def against_ours(
    name: str, foreign: nn.Module, layer: MoELayer, x: Float[Tensor, "B S D"], routed: Routed
) -> float:
    """The largest difference of a peer's output, and of the gradient of the tokens, from ours.

    Tokens whose choice a rounding decides are left out: others route in the dtype of the tokens.

    Raises:
        UnequalError: it is too large, or most choices hang on a rounding.
    """
    if routed.settled.double().mean() < 0.5:
        raise UnequalError(f"{name}: most choices hang on a rounding, so that nothing is compared")
    found = _output_and_gradient(foreign, x)
    expected = _output_and_gradient(_Whole(layer, routed.context), x)
    bound = BOUNDS[x.dtype]
    parts = zip(("output", "gradient"), found, expected, strict=True)
    return max(
        difference(f"{name}, {part}", one[routed.settled], other[routed.settled], bound)
        for part, one, other in parts
    )


def _output_and_gradient(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    given = x.detach().requires_grad_()
    y = module(given)
    (gradient,) = torch.autograd.grad(y, given, torch.ones_like(y))
    return y.detach().flatten(0, 1), gradient.flatten(0, 1)


def _work(case: Case, module: nn.Module, x: Tensor, upstream: Tensor) -> Work:
    """A call of what is timed; gradients of the call before are gone."""

    @torch.no_grad()
    def forward() -> None:
        module(x)

    def both() -> None:
        for leaf in (*module.parameters(), x):
            leaf.grad = None
        module(x).backward(upstream)

    return both if case.mode == BOTH else forward


@final
class _Whole(nn.Module):
    """A sparse layer whose output alone is wanted."""

    def __init__(self, layer: MoELayer, context: RoutingContext) -> None:
        super().__init__()
        self.layer = layer
        self.context = context

    def forward(self, x: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        y: Tensor = self.layer(x, self.context)[0]
        return y


@final
class _Alone(nn.Module):
    """Experts with the ends of their rows."""

    def __init__(self, layer: MoELayer, offsets: Tensor) -> None:
        super().__init__()
        self.experts = layer.experts
        self.offsets = offsets

    def forward(self, rows: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        y: Tensor = self.experts(rows, self.offsets)
        return y


@final
class _Cast(nn.Module):
    """Another library's layer over float32 weights, in the dtype of the tokens by autocast."""

    def __init__(self, inner: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner = inner
        self.in_half = dtype == torch.bfloat16

    def forward(self, x: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.in_half):
            y: Tensor = self.inner(x)
        return y.to(x.dtype)
