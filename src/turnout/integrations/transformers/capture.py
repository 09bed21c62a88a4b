"""The routing of an unmodified model of the library, as a record.

Axes: B batch, S sequence, T tokens = B * S, K choices, E experts.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, final

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from turnout.config.errors import UserError
from turnout.integrations.transformers.blocks import SparseBlock, sparse_blocks
from turnout.moe.record import RoutingRecord
from turnout.moe.stats import LayerDecision


@final
class Capture:
    """What the sparse blocks of a model decided, pass after pass."""

    def __init__(self, blocks: list[SparseBlock]) -> None:
        self._pieces: dict[str, list[LayerDecision]] = {block.name: [] for block in blocks}
        self._given: Mapping[str, Any] | None = None

    def take(self) -> RoutingRecord:
        """The record since the last call, a layer a sparse block, named by its path.

        Passes that follow each other, as in generation, are joined along the sequence. Padding
        reads -1, and so do choices that were dropped. Weights are the block's combine weights;
        log-probabilities are NaN, since not every router has probabilities.

        Raises:
            UserError: no pass was made, or passes over batches of different sizes.
        """
        pieces = {name: each for name, each in self._pieces.items() if each}
        if not pieces:
            raise UserError(
                "nothing was captured: call the model that was given to capture(), inside its "
                "with block"
            )
        for name, each in pieces.items():
            rows = sorted({len(piece.expert) for piece in each})
            if len(rows) > 1:
                raise UserError(
                    f"{name}: passes over batches of {rows} rows cannot be joined; "
                    "call take() after each"
                )
        self._pieces = {name: [] for name in self._pieces}
        return RoutingRecord(tuple(pieces), tuple(map(_joined, pieces.values())))

    def begin(self, given: Mapping[str, Any]) -> None:
        """A pass of the model begins, with these arguments."""
        self._given = given

    def end(self) -> None:
        """The pass is over: what a recomputation in the backward pass does is not recorded."""
        self._given = None

    def add(self, name: str, decision: LayerDecision) -> None:
        """A sparse block's decision, for all tokens.

        Raises:
            UserError: the attention mask does not say which tokens are padding.
        """
        if self._given is None:
            return
        mask = _mask(name, self._given, decision.expert.shape[1])
        self._pieces[name].append(decision if mask is None else _masked(decision, mask))


@contextmanager
def capture(model: nn.Module) -> Iterator[Capture]:
    """Records which experts every token takes while the model runs, and changes nothing.

        with capture(model) as captured:
            model(input_ids=ids, attention_mask=mask)
        record = captured.take()

    Raises:
        UserError: the model has no sparse block that is known.
    """
    blocks = sparse_blocks(model)
    captured = Capture(blocks)
    signature = inspect.signature(model.forward)

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        captured.begin(signature.bind_partial(*args, **kwargs).arguments)

    def after(module: nn.Module, args: Any, output: Any) -> None:
        captured.end()

    with ExitStack() as hooks:
        for block in blocks:
            for handle in WATCH[block.kind](block, captured):
                hooks.callback(handle.remove)
        hooks.callback(model.register_forward_pre_hook(before, with_kwargs=True).remove)
        hooks.callback(model.register_forward_hook(after, always_call=True).remove)
        yield captured


def _watch_experts(block: SparseBlock, captured: Capture) -> list[Any]:
    """Stacked experts are given states, experts and combine weights, [T, ..]."""
    shape: list[torch.Size] = []

    def enters(module: nn.Module, args: Any, kwargs: Any) -> None:
        states = (args or tuple(kwargs.values()))[0]
        shape[:] = [states.shape[:2]]

    def routed(module: nn.Module, args: Any) -> None:
        _, expert, weight = args
        table = (*shape[0], expert.shape[-1])
        expert, weight = expert.detach().view(table), weight.detach().view(table)
        served = expert < module.num_experts
        captured.add(block.name, _decision(torch.where(served, expert, -1), expert, weight))

    return [
        block.module.register_forward_pre_hook(enters, with_kwargs=True),
        block.watched.register_forward_pre_hook(routed),
    ]


def _watch_switch(block: SparseBlock, captured: Capture) -> list[Any]:
    """Switch's router says [B, S, E] one-hot after capacity, probability [B, S, 1] and logits; a
    token that was dropped has no one there, so that its expert is read from the logits."""

    def routed(module: nn.Module, args: Any, output: Any) -> None:
        one_hot, probability, logits = (each.detach() for each in output)
        named = logits.argmax(-1, keepdim=True)
        served = one_hot.sum(-1, keepdim=True) > 0
        captured.add(block.name, _decision(torch.where(served, named, -1), named, probability))

    return [block.watched.register_forward_hook(routed)]


WATCH: dict[str, Callable[[SparseBlock, Capture], list[Any]]] = {
    "experts": _watch_experts,
    "SwitchTransformersTop1Router": _watch_switch,
}


def _decision(
    expert: Int[Tensor, "B S K"], named: Int[Tensor, "B S K"], weight: Tensor
) -> LayerDecision:
    unknown = torch.full(expert.shape, torch.nan, device=expert.device)
    kept = torch.where(expert >= 0, weight.float(), 0.0)
    return LayerDecision(expert, named, torch.ones_like(expert, dtype=torch.bool), kept, unknown)


def _masked(decision: LayerDecision, mask: Bool[Tensor, "B S"]) -> LayerDecision:
    real = mask.unsqueeze(2)
    return LayerDecision(
        torch.where(real, decision.expert, -1),
        torch.where(real, decision.named, -1),
        decision.live & real,
        torch.where(real, decision.weight, 0.0),
        decision.log_probability,
    )


def _mask(name: str, given: Mapping[str, Any], length: int) -> Bool[Tensor, "B S"] | None:
    decodes = "decoder_attention_mask" in given or "decoder_input_ids" in given
    in_decoder = decodes and "decoder" in name.split(".")
    mask = given.get("decoder_attention_mask" if in_decoder else "attention_mask")
    if mask is None:
        return None
    dims = getattr(mask, "ndim", None)
    if dims != 2:
        raise UserError(
            "attention_mask: must be a tensor [B, S] for capture() to know padding; "
            f"this one is {'no tensor' if dims is None else f'{dims}-dimensional'}"
        )
    # Under a cache it covers the past too.
    return mask[:, mask.shape[1] - length :].bool()  # type: ignore[no-any-return]


def _joined(pieces: list[LayerDecision]) -> LayerDecision:
    parts = ("expert", "named", "live", "weight", "log_probability")
    return LayerDecision(
        **{part: torch.cat([getattr(p, part) for p in pieces], 1) for part in parts}
    )
