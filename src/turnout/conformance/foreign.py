"""Layers of other packages under the same properties, those that need no look inside."""

import copy
import math
from collections.abc import Callable
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from turnout.conformance.subject import Seen, Setting, Subject
from turnout.moe.context import RoutingContext

Call = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""From a module, states [B, S, D] and mask [B, S] to outputs [B, S, D]."""


@final
class ForeignLayer(Subject):
    """Any module that maps states [B, S, D] to outputs of the same shape.

    What it claims is what its users count on: that no row depends on the others in evaluation,
    and that no token reads later ones.

        check(ForeignLayer(block, d_model=64, call=lambda block, x, mask: block(x)[0]))
    """

    white_box, takes_capacity = False, False
    zero_z = math.nan

    def __init__(
        self,
        module: nn.Module,
        d_model: int,
        call: Call | None = None,
        *,
        pads: bool = False,
        causal: bool = True,
        name: str | None = None,
    ) -> None:
        """``call`` says how it is called, by default with the states alone.

        Args:
            pads: whether ``call`` makes use of the mask.
            causal: whether it claims to be.
        """
        self.module = module
        self.d_model = d_model
        self.call = call or _alone
        self.pads = pads
        self.name = type(module).__name__ if name is None else name
        self._causal = causal

    def layer(self, setting: Setting) -> nn.Module:
        return copy.deepcopy(self.module).train()

    def see(self, layer: nn.Module, x: Float[Tensor, "B S D"], context: RoutingContext) -> Seen:
        # Foreign noise comes from torch's generator: the same rows see the same, if it is drawn so.
        torch.manual_seed(0)
        given = x.clone()
        y = self.call(layer, given, context.mask)
        return Seen(y, overwritten=not torch.equal(given, x))

    def causal(self, setting: Setting) -> bool:
        return self._causal

    def batch_invariant(self, setting: Setting) -> bool:
        return True


def _alone(module: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    y: Tensor = module(x)
    return y
