"""Our sparse layer in place of the library's sparse blocks, and back.

Axes: B batch, S sequence, D width.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from turnout.config.errors import UserError
from turnout.integrations.transformers.blocks import sparse_blocks
from turnout.integrations.transformers.recipes import Unfit, recipe
from turnout.integrations.transformers.weights import freeze_alike, ours, theirs
from turnout.moe.build import build_layer
from turnout.moe.context import RoutingContext
from turnout.moe.layer import MoELayer
from turnout.moe.stats import LayerStats


@final
class ReplacedBlock(nn.Module):
    """A layer of ours where the library calls a block of its own: from states to states.

    Attributes:
        layer: ours. Every token counts as real: blocks of the library are not told of padding.
        source: the class of theirs and the configuration it was made of, for the way back.
    """

    def __init__(self, layer: MoELayer, source: tuple[type[nn.Module], Any]) -> None:
        super().__init__()
        self.layer = layer
        self.source = source

    def forward(self, hidden_states: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        x, device = hidden_states, hidden_states.device.type
        if torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        y: Tensor
        y, _, _ = self.layer(x, RoutingContext.of(mask))
        return y.to(hidden_states.dtype)


@dataclass(frozen=True)
class Replacement:
    """What ``replace_moe`` did.

    Attributes:
        swapped: paths of the blocks that are ours now.
        left: paths of those that are theirs still, each with the reason.
    """

    swapped: tuple[str, ...]
    left: Mapping[str, str]

    def text(self) -> str:
        """A line a block."""
        lines = [f"{name}: ours" for name in self.swapped]
        return "\n".join(lines + [f"{name}: left, {why}" for name, why in self.left.items()])


def replace_moe(model: nn.Module) -> Replacement:
    """Puts a ``MoELayer`` with the same weights, dropping no token, in place of each sparse block.

    Outputs and gradients are the same within rounding. Parameters are new ones with other names:
    make the optimiser afterwards, and ``put_back`` before ``save_pretrained``. Blocks without an
    equal of ours are left, and the report says why.

    Raises:
        UserError: the model has no sparse block that is known; or it is to return router logits,
            which its own routers alone report.
    """
    config: Any = model.config
    if getattr(config, "output_router_logits", False):
        raise UserError(
            "output_router_logits = True: must be false, since the routers that report logits go; "
            "take the loss from statistics(model) and turnout.router_losses"
        )
    swapped, left = [], {}
    for index, block in enumerate(sparse_blocks(model)):
        try:
            made = _replaced(block.name, block.module, index)
        except Unfit as error:
            left[block.name] = str(error)
            continue
        model.set_submodule(block.name, made, strict=True)
        swapped.append(block.name)
    return Replacement(tuple(swapped), left)


def _replaced(name: str, block: Any, index: int) -> ReplacedBlock:
    plan = recipe(block)
    with torch.device("meta"):
        layer = build_layer(
            plan.moe,
            d_model=plan.d_model,
            feed_forward=plan.feed_forward,
            name=name,
            index=index,
            initialise=False,
        )
    layer.load_state_dict(ours(block.state_dict()), strict=True, assign=True)
    freeze_alike(block, layer, from_theirs=True)
    made = ReplacedBlock(layer, (type(block), block.experts.config))
    return made.train(block.training)


def put_back(model: nn.Module) -> tuple[str, ...]:
    """Undoes ``replace_moe`` with the weights of now, so that ``save_pretrained`` writes the
    library's own names; returns the paths of the blocks. Parameters are new ones again."""
    found = [name for name, each in model.named_modules() if type(each) is ReplacedBlock]
    for name in found:
        replaced: Any = model.get_submodule(name)
        kind, config = replaced.source
        with torch.device("meta"):
            block = kind(config)
        block.load_state_dict(theirs(replaced.layer.state_dict()), strict=True, assign=True)
        freeze_alike(block, replaced.layer, from_theirs=False)
        model.set_submodule(name, block.train(replaced.training), strict=True)
    return tuple(found)


@contextmanager
def statistics(model: nn.Module) -> Iterator[list[LayerStats]]:
    """The reports of the replaced layers, in the order in which the model runs them.

        with statistics(model) as stats:
            loss = model(input_ids=ids, labels=ids).loss
        loss = loss + sum(router_losses(layer) for layer in stats)

    What a recomputation in the backward pass says is not added.
    """
    stats: list[LayerStats] = []
    running: list[bool] = []

    def learnt(module: nn.Module, args: Any, output: Any) -> None:
        if running:
            stats.append(output[1])

    with ExitStack() as hooks:
        for module in model.modules():
            if type(module) is ReplacedBlock:
                hooks.callback(module.layer.register_forward_hook(learnt).remove)
        begin = model.register_forward_pre_hook(lambda module, args: running.append(True))
        end = model.register_forward_hook(lambda *_: running.clear(), always_call=True)
        hooks.callback(begin.remove)
        hooks.callback(end.remove)
        yield stats
