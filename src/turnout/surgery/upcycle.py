"""Sparse upcycling (Komatsuzaki et al., 2212.05055): a dense model's networks become experts.

With a split each network is cut into shares of its hidden units first (granular upcycling with
virtual groups, He et al., 2410.07524).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, final

from turnout.config.errors import UserError, require
from turnout.config.losses import LossConfig
from turnout.config.model import ModelConfig
from turnout.config.moe import MoEConfig, Placement
from turnout.config.routers import (
    CombineWeights,
    LabelRouter,
    NoisyTopKRouter,
    RouterConfig,
    SwitchRouter,
    ThorRouter,
    TopKRouter,
)
from turnout.config.train import RunConfig
from turnout.surgery.base import Expectation, Rules, Surgery, one
from turnout.surgery.bounds import finite, most_experts
from turnout.surgery.changes import Blend, Draw, Drawn, Remade, seed_of
from turnout.surgery.fresh import Fresh
from turnout.surgery.layers import HIDDEN, Layer, experts_of, sparse_layers
from turnout.surgery.routers import BY_ROW, expected_weight, never_drops, whole

ROUTER_STD = 0.02  # of Flaxformer's routers, which the paper's runs began with
FIXED = (LabelRouter.kind, ThorRouter.kind)  # they route without a weight


@dataclass(frozen=True)
class Sparse:
    """What the sparse layers of a model become that is dense now.

    Attributes:
        experts: copies of each network.
        k: of them a token takes.
        weights: combine weights; None for renormalised ones, raw where k is 1.
        capacity: factor in training; None drops nothing.
        split: shares that each network is cut into: so many times more experts and choices.
        router_std: standard deviation of the routers' matrices.
    """

    experts: int
    k: int = 2
    weights: CombineWeights | None = None
    placement: Placement = field(default_factory=Placement)
    capacity: float | None = 1.25
    split: int = 1
    router_std: float = ROUTER_STD
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("experts", "k", "split"):
            require(getattr(self, name) >= 1, f"--{name}", getattr(self, name), "at least 1")
        most_experts("--experts", self.experts, self.experts * self.split)
        finite("--router-std", self.router_std)
        require(
            self.k <= self.experts,
            "--k",
            self.k,
            f"at most --experts ({self.experts})",
            "a token takes different experts",
        )

    def moe(self, config: ModelConfig) -> MoEConfig:
        """The sparse layers.

        Raises:
            UserError: the model is sparse, or its networks cannot be cut so.
        """
        if config.moe is not None:
            raise UserError(
                "model.moe: the model has experts already; upcycling begins with a dense one "
                "(`turnout surgery dense`); `clone`, `split` and `grow` make more experts"
            )
        d_ff = config.feed_forward.d_ff
        require(d_ff % self.split == 0, "--split", self.split, f"a divisor of d_ff ({d_ff})")
        expert = None
        if self.split > 1:
            expert = replace(config.feed_forward, d_ff=d_ff // self.split)
        return MoEConfig(
            self.experts * self.split,
            self._router(),
            expert=expert,
            placement=self.placement,
            train_capacity_factor=self.capacity,
        )

    def run(self, old: RunConfig) -> RunConfig:
        """The run with sparse layers, and with the losses that keep them in balance."""
        model: ModelConfig = replace(old.model, moe=self.moe(old.model))
        losses, usual = old.losses, LossConfig()
        if not losses.balance and not losses.router_z:
            losses = replace(losses, balance=usual.balance, router_z=usual.router_z)
        return replace(old, model=model, losses=losses)

    def _router(self) -> RouterConfig:
        k = self.k * self.split
        if k == 1 and self.weights in (None, "raw"):
            return SwitchRouter()
        # As where nothing is split, of which this is to be the same function.
        default: CombineWeights = "raw" if self.k == 1 else "renormalised"
        return TopKRouter(k, self.weights or default)

    def checked(self, new: ModelConfig) -> dict[str, Layer]:
        """The sparse layers of the configuration, which options may have changed meanwhile.

        Raises:
            UserError: into what these experts are not.
        """
        layers = sparse_layers(new)
        for layer in layers.values():
            assert layer.moe is not None
            found, asked = experts_of(layer), self.experts * self.split
            if found != asked:
                raise UserError(
                    f"model.moe.num_experts = {found} in {layer.name}: must be {asked}, "
                    "--experts times --split"
                )
            if layer.moe.shared_experts or layer.moe.extra_ffn:
                raise UserError(
                    "model.moe.shared_experts, model.moe.extra_ffn: must be left out in upcycling, "
                    "which has a network for each expert and none for them"
                )
            kind = layer.moe.router.kind
            if kind not in (*BY_ROW, *FIXED):
                known = ", ".join(sorted((*BY_ROW, *FIXED)))
                raise UserError(f"model.moe.router.kind = {kind!r}: must be one of {known}")
            self._check_split(layer.moe.router)
        return layers

    def _check_split(self, router: RouterConfig) -> None:
        """All shares of a network must be chosen together."""
        shared = router.kind in (TopKRouter.kind, NoisyTopKRouter.kind)
        if self.split > 1 and not (shared and router.active % self.split == 0):
            raise UserError(
                f"--split {self.split}: goes with a router of kind top_k or noisy_top_k whose k is "
                f"a multiple of it, so that all shares of a network are chosen together; this is "
                f"{router.kind} with {router.active}"
            )

    def routers(self, new: ModelConfig, layers: Mapping[str, Layer]) -> Rules:
        """The routers' tensors, drawn; the shares of one network have equal rows."""
        fresh = Fresh(new, self.seed, self.router_std)
        return [
            one(layer.router(part), (), Drawn(self._repeated(fresh, layer, part)))
            for layer in layers.values()
            for part in fresh.router_parts(layer.prefix)
        ]

    def _repeated(self, fresh: Fresh, layer: Layer, part: str) -> Draw:
        def draw() -> Any:
            tensor = fresh.tensor(layer.prefix, f"moe.router.{part}")
            groups = tensor[: tensor.shape[0] // self.split]
            return groups.repeat_interleave(self.split, dim=0)

        return draw

    def blends(self, copies: Sequence[int], noisy: bool = False) -> tuple[Blend, ...]:
        """Expert g M + m is share m of copy g, and comes from network ``copies[g]``."""
        return tuple(
            Blend.copy(source, part, noisy) for source in copies for part in range(self.split)
        )


@final
@dataclass(frozen=True)
class Upcycle(Surgery):
    """Every expert a copy of the dense network, or of a share of it.

    Attributes:
        noise: standard deviation of what is added to each copy, relative to that of the weight.
        scale_out: whether to divide the experts' outputs by what combine weights are expected to
            add up to, k / E of raw ones behind a router that knows nothing yet.
    """

    sparse: Sparse
    noise: float = 0.0
    scale_out: bool = False

    kind = "upcycle"

    def run(self, old: RunConfig) -> RunConfig:
        finite("--noise", self.noise)
        return self.sparse.run(old)

    def rules(self, old: ModelConfig, new: ModelConfig) -> Rules:
        layers = self.sparse.checked(new)
        found = self.sparse.routers(new, layers)
        blends = self.sparse.blends([0] * self.sparse.experts, self.noise > 0)
        for layer in layers.values():
            scale = self._scale(layer)
            for part in layer.parts:
                # Each share of a network has an M-th of its weight, so that the outputs, of which
                # the matrix is a factor, are M times as large; a bias is added once a share.
                times = {"w_out": self.sparse.split * scale, "b_out": scale}.get(part, 1.0)
                change = Remade(
                    blends,
                    parts=self.sparse.split,
                    hidden=HIDDEN[part],
                    scale=times,
                    noise=self.noise,
                    seed=seed_of(self.sparse.seed, layer.stacked(part)),
                    dense=True,
                )
                found.append(one(layer.stacked(part), [layer.dense(part)], change))
        return found

    def expected(self, old: ModelConfig, new: ModelConfig) -> Expectation:
        assert new.moe is not None
        notes = [ADVICE]
        if self.sparse.router_std == 0:
            notes.append(
                "--router-std 0: all logits are equal, so that every token takes the first experts "
                "and no other is ever trained"
            )
        why = self._changes(new)
        kept = "all experts are equal and their combine weights add up to 1"
        back = "{turnout} surgery dense {run} --out {out} --expert 0" if self._copied(new) else ""
        return Expectation(not why, why or kept, back, tuple(notes))

    def _changes(self, new: ModelConfig) -> str:
        """What changes the function; nothing where it stays."""
        layers = [layer.moe for layer in sparse_layers(new).values() if layer.moe is not None]
        if self.noise > 0:
            return f"noise of {self.noise:g} of each weight's deviation"
        if self._scaled(new):
            return (
                "outputs are divided by what combine weights are expected to add up to, which is "
                "right on average and not for each token"
            )
        if any(moe.output_masking > 0 for moe in layers):
            return "evaluation multiplies what experts add by 1 - model.moe.output_masking"
        if not all(map(whole, layers)):
            least = min(map(expected_weight, layers))
            if least >= 1:
                return f"combine weights add up to about {least:.3g}, and not for every token"
            return (
                f"combine weights add up to less than 1, at first to about {least:.3g}, which "
                "shrinks what the layer adds; renormalised ones or --scale-out keep it"
            )
        return "" if never_drops(new) else "evaluation has a capacity, and drops tokens"

    def arguments(self) -> Mapping[str, Any]:
        return asdict(self)

    def old_labels(self) -> Sequence[int] | None:
        return None

    def _copied(self, new: ModelConfig) -> bool:
        """Whether an expert is the network that it came from, to the bit."""
        return self.noise == 0 and self.sparse.split == 1 and not self._scaled(new)

    def _scaled(self, new: ModelConfig) -> bool:
        return any(self._scale(layer) != 1 for layer in sparse_layers(new).values())

    def _scale(self, layer: Layer) -> float:
        if not self.scale_out:
            return 1.0
        assert layer.moe is not None
        return 1.0 / expected_weight(layer.moe)


ADVICE = (
    "the paper goes on with the dense run's learning rate, batch and weight decay, where its "
    "schedule stood; 10 to 60 % of the dense run's steps are worth it, and a model trained from "
    "scratch needs about as many as the dense run had to catch up (2212.05055)"
)
