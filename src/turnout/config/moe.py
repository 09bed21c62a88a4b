"""A sparse layer and where it stands in a stack."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from turnout.config.errors import ConfigError, check_words, require
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.routers import RouterConfig, SwitchRouter

Priority = Literal["token", "choice", "score", "random"]
DispatcherName = Literal["sorted", "einsum"]
ProductName = Literal["auto", "slices", "rounded", "onednn", "grouped_mm", "padded_bmm", "native"]
AttentionExperts = Literal["none", "also", "only"]
Rounding = Literal["nearest", "floor", "ceil", "ceil_multiple_of_4", "floor_multiple_of_4_up"]


@dataclass(frozen=True)
class RowsGroup:
    """Routing group of ``rows`` whole rows of the batch; 1 is the default."""

    kind: ClassVar[str] = "rows"
    rows: int = 1

    def __post_init__(self) -> None:
        require(self.rows >= 1, "moe.group.rows", self.rows, "at least 1")

    @property
    def within_row(self) -> bool:
        """Whether a group never spans rows of the batch."""
        return self.rows == 1


@dataclass(frozen=True)
class DocumentGroup:
    """Each segment of a packed row is a routing group of its own."""

    kind: ClassVar[str] = "document"

    @property
    def rows(self) -> int:
        """Whole rows that must stay together."""
        return 1

    @property
    def within_row(self) -> bool:
        return True


RoutingGroup = RowsGroup | DocumentGroup


@dataclass(frozen=True)
class Placement:
    """Which layers of a stack are sparse: from ``first`` on, the last of every ``step`` layers.

    Layers count from 0. ``step=2, first=0`` is every other layer (1, 3, 5, ..: Switch, GShard,
    Flaxformer);
    ``step=1, first=1`` is all but the first (DeepSeekMoE 16B).
    """

    step: int = 2
    first: int = 0

    def __post_init__(self) -> None:
        require(self.step >= 1, "moe.placement.step", self.step, "at least 1")
        require(self.first >= 0, "moe.placement.first", self.first, "at least 0")

    def sparse_layers(self, num_layers: int) -> tuple[int, ...]:
        """Indices of the sparse layers among ``num_layers``."""
        return tuple(
            i
            for i in range(self.first, num_layers)
            if (i - self.first) % self.step == self.step - 1
        )


@dataclass(frozen=True)
class MoEConfig:
    """A sparse feed-forward layer. Widths are the total ones; nothing is per device.

    ``expert`` None means the stack's own feed-forward network. ``shared_experts`` is the number
    of experts every token passes (DeepSeekMoE); ``shared_gate`` weighs them by a learned sigmoid
    (Qwen2-MoE). ``extra_ffn`` adds ST-MoE's dense network behind
    the layer, with its own norm and residual. A capacity factor of None drops nothing.
    ``init_scale`` is s of the truncated normal of std sqrt(s / fan_in) that router and experts
    start from (Switch section 2.4: 0.1); None initialises them as the model's other matrices.
    ``decoder_router`` is for decoders where ``router`` may read ahead, as experts that choose
    their tokens do (T5X: expert choice in the encoder, top-2 in the decoder). ``pyramid`` gives the
    experts of each sparse layer of a stack, first to last, ``num_experts`` the most of them
    (DeepSpeed-MoE, 2201.05596: more in later layers); its residual experts are one
    ``shared_experts`` beside top-1. ``attention`` puts experts into the self-attention of the same
    layers, beside those of the feed-forward network (``also``) or in their place (``only``): one
    set makes queries, another a vector that is key and value both (Switch, figure 10 and table 10).
    ``output_masking`` leaves out experts' outputs in training, each with that probability, and
    scales all by what is left in evaluation (expert output masking: NLLB, 2207.04672).
    ``eval_slots`` is a transformers model's way of evaluating, off by default: an expert has that
    many slots in every row of every pass, generation's too, however many tokens the row has, and
    padding is routed and takes slots (modeling_switch_transformers.py, ``expert_capacity``).
    """

    num_experts: int
    router: RouterConfig = field(default_factory=SwitchRouter)
    decoder_router: RouterConfig | None = None
    pyramid: tuple[int, ...] = ()
    attention: AttentionExperts = "none"
    expert: FeedForwardConfig | None = None
    shared_experts: int = 0
    shared_gate: bool = False
    extra_ffn: bool = False
    expert_dropout: float = 0.0
    output_masking: float = 0.0
    init_scale: float | None = 0.1
    placement: Placement = field(default_factory=Placement)
    group: RoutingGroup = field(default_factory=RowsGroup)
    train_capacity_factor: float | None = 1.25
    eval_capacity_factor: float | None = None
    eval_slots: int | None = None
    capacity_rounding: Rounding = "nearest"
    min_capacity: int = 4
    priority: Priority = "token"
    weights_after_drops: bool = False
    allow_future_routing: bool = False
    dispatcher: DispatcherName = "sorted"
    product: ProductName = "auto"

    def __post_init__(self) -> None:
        check_words(self, "moe")
        require(self.num_experts >= 1, "moe.num_experts", self.num_experts, "at least 1")
        self._check_routers()
        self._check_attention()
        for name in ("train_capacity_factor", "eval_capacity_factor"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ConfigError(f"moe.{name}", value, "above 0", "or none, which drops no token")
        self._check_slots()
        require(self.min_capacity >= 1, "moe.min_capacity", self.min_capacity, "at least 1")
        require(self.shared_experts >= 0, "moe.shared_experts", self.shared_experts, "at least 0")
        require(
            self.shared_experts > 0 or not self.shared_gate,
            "moe.shared_gate",
            self.shared_gate,
            "false without moe.shared_experts",
        )
        require(
            self.init_scale is None or self.init_scale > 0,
            "moe.init_scale",
            self.init_scale,
            "above 0",
        )
        require(
            not (self.weights_after_drops and self.router.active == 1),
            "moe.weights_after_drops",
            self.weights_after_drops,
            "false where a token has one expert, whose weight would always be 1",
        )
        for name in ("expert_dropout", "output_masking"):
            value = getattr(self, name)
            require(0 <= value < 1, f"moe.{name}", value, "in [0, 1)")

    def _check_slots(self) -> None:
        """Slots of a row leave nothing for a factor, and no group but the row."""
        if self.eval_slots is None:
            return
        require(self.eval_slots >= 1, "moe.eval_slots", self.eval_slots, "at least 1")
        require(
            self.eval_capacity_factor is None,
            "moe.eval_capacity_factor",
            self.eval_capacity_factor,
            "none with moe.eval_slots, which says how many slots there are",
        )
        require(
            self.group.kind == RowsGroup.kind and self.group.rows == 1,
            "moe.group",
            self.group,
            "one row with moe.eval_slots, which are those of a row",
        )

    def _check_attention(self) -> None:
        """Nothing about feed-forward experts is set where there are none."""
        if self.in_feed_forward:
            return
        for name in ("expert", "shared_experts", "extra_ffn", "expert_dropout", "output_masking"):
            require(
                not getattr(self, name),
                f"moe.{name}",
                getattr(self, name),
                "left out where moe.attention is 'only'",
                "the experts are attention's projections; 'also' keeps feed-forward experts",
            )

    def _check_routers(self) -> None:
        require(
            not self.pyramid or (max(self.pyramid) == self.num_experts and min(self.pyramid) >= 1),
            "moe.pyramid",
            list(self.pyramid),
            f"of numbers from 1, the most of which is moe.num_experts ({self.num_experts})",
        )
        for router in (self.router, self.decoder_router):
            if router is not None:
                for experts in sorted({self.num_experts, *self.pyramid}):
                    router.check(experts)

    @property
    def in_attention(self) -> bool:
        """Whether experts make the projections of self-attention."""
        return self.attention != "none"

    @property
    def in_feed_forward(self) -> bool:
        """Whether experts are feed-forward networks."""
        return self.attention != "only"

    def of_stack(self, decoder: bool) -> "MoEConfig":
        """The same for one stack: ``router`` is the one that it takes."""
        if self.decoder_router is None:
            return self
        router = self.decoder_router if decoder else self.router
        return replace(self, router=router, decoder_router=None)

    def of_layers(self, count: int) -> "tuple[MoEConfig, ...]":
        """The same for each of a stack's ``count`` sparse layers, with its number of experts."""
        if not self.pyramid:
            return (self,) * count
        return tuple(replace(self, num_experts=number, pyramid=()) for number in self.pyramid)

    def expert_ffn(self, feed_forward: FeedForwardConfig) -> FeedForwardConfig:
        """The shape of one expert in a stack whose dense layers are ``feed_forward``."""
        return feed_forward if self.expert is None else self.expert

    def shared_ffn(self, feed_forward: FeedForwardConfig) -> FeedForwardConfig | None:
        """The shared experts as one network of their summed width; None without any."""
        if self.shared_experts == 0:
            return None
        expert = self.expert_ffn(feed_forward)
        return replace(expert, d_ff=self.shared_experts * expert.d_ff)

    def expert_capacity(self, factor: float | None, group_tokens: int) -> int | None:
        """Slots of one expert in one group: ``rounded(factor * k * group_tokens / E)``, where k is
        E for a router that starts dense.

        A constant of the configuration, so that neither padding nor an appended token moves it
        (Switch eq. 3; GShard: k = 2). The named roundings are those of the papers' code:
        Flaxformer ``nearest``, Mesh-TF ``floor``, V-MoE ``ceil_multiple_of_4``, lingvo
        ``floor_multiple_of_4_up`` (floor, then up to a multiple of 4). Never below
        ``min_capacity``, never above ``group_tokens``.
        """
        if factor is None:
            return None
        choices = self.num_experts if self.router.starts_dense else self.router.active
        exact = round(factor * choices * group_tokens / self.num_experts, 9)
        if exact >= group_tokens:
            return group_tokens
        rounded = _ROUNDINGS[self.capacity_rounding](exact)
        return min(max(rounded, self.min_capacity), group_tokens)


def _up_to_4(value: int) -> int:
    return -(-value // 4) * 4


_ROUNDINGS: dict[str, Callable[[float], int]] = {
    "nearest": round,
    "floor": math.floor,
    "ceil": math.ceil,
    "ceil_multiple_of_4": lambda exact: _up_to_4(math.ceil(exact)),
    "floor_multiple_of_4_up": lambda exact: _up_to_4(math.floor(exact)),
}
