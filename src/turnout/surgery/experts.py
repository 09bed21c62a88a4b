"""The operations on the experts of a sparse model, from what was asked and what was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import singledispatch
from typing import Any

from turnout.config.errors import UserError, require
from turnout.config.model import ModelConfig
from turnout.config.routers import RouterConfig, SigmoidTopKRouter, Top2Router
from turnout.surgery.base import Expectation
from turnout.surgery.bounds import finite, most_experts
from turnout.surgery.changes import Blend
from turnout.surgery.layers import counts, experts_of, sparse_layers
from turnout.surgery.recast import Recast
from turnout.surgery.routers import goes_back, halved, never_drops, require_rows

Scores = Mapping[str, Sequence[float]]
Orders = Mapping[str, Sequence[int]]


def prune(config: ModelConfig, scores: Scores, keep: int, by: str) -> Recast:
    """Keeps the ``keep`` experts of each layer with the largest scores, in their old order; of
    equal scores the lower number.

    Raises:
        UserError: too few experts would be left for the routers' choices, or none would go.
    """
    layers = sparse_layers(config)
    require_rows(layers)
    check_keep(config, keep)
    blends, kept = {}, {}
    for name in layers:
        ranked = sorted(range(len(scores[name])), key=lambda e: (-scores[name][e], e))
        kept[name] = sorted(ranked[:keep])
        blends[name] = tuple(Blend.copy(expert) for expert in kept[name])
    why = f"experts are gone, and the routers choose among the {keep} that are left"
    asked = {"keep": keep, "by": by, "scores": _plain(scores), "kept": kept}
    return Recast("prune", blends, Expectation(False, why), asked)


def merge(
    config: ModelConfig, groups: Mapping[str, Sequence[Sequence[int]]], loads: Scores
) -> Recast:
    """Each group of experts becomes one: their mean weighted by load, rows of the router too.

    Hidden units are not aligned first, so that experts which are alike in function but whose
    units stand in another order do not merge well.

    Raises:
        UserError: as ``prune``.
    """
    layers = sparse_layers(config)
    require_rows(layers)
    blends = {
        name: tuple(
            Blend.copy(group[0])
            if len(group) == 1
            else Blend.mean((expert, float(loads[name][expert])) for expert in group)
            for group in groups[name]
        )
        for name in layers
    }
    check_keep(config, min(map(len, blends.values())), "--to")
    why = "experts are means of several"
    shown = {name: [list(group) for group in groups[name]] for name in layers}
    asked = {"groups": shown, "loads": _plain(loads)}
    return Recast("merge", blends, Expectation(False, why), asked)


def reorder(config: ModelConfig, orders: Orders) -> Recast:
    """Expert ``orders[layer][i]`` becomes expert i, and its row of the router with it.

    Raises:
        UserError: an order does not name each expert once.
    """
    layers = sparse_layers(config)
    require_rows(layers)
    for name, number in counts(config).items():
        if sorted(orders[name]) != list(range(number)):
            raise UserError(
                f"--order {','.join(map(str, orders[name]))}: must name each of the experts 0 to "
                f"{number - 1} of {name} once"
            )
    blends = {name: tuple(map(Blend.copy, orders[name])) for name in layers}
    inverse = {
        name: sorted(range(len(order)), key=order.__getitem__) for name, order in orders.items()
    }
    words = " ".join(f"{name}={','.join(map(str, order))}" for name, order in inverse.items())
    back = f"{{turnout}} surgery reorder {{run}} --out {{out}} --order {words}"
    why = "experts and rows of their routers change places together"
    asked = {"orders": {name: list(order) for name, order in orders.items()}}
    return Recast("reorder", blends, Expectation(True, why, back), asked)


def clone(
    config: ModelConfig, copies: int, split: bool, noise: float = 0.0, seed: int = 0
) -> Recast:
    """Every expert ``copies`` times, side by side. With ``split`` a token takes all copies of each
    expert that it took one of, which share its weight; without, it chooses as many as before.

    Raises:
        UserError: the routers cannot choose so.
    """
    layers = sparse_layers(config)
    require_rows(layers)
    require(copies >= 2, "--copies", copies, "at least 2")
    most_experts("--copies", copies, copies * max(counts(config).values()))
    finite("--noise", noise)
    routers = _shared(config, copies, "--split") if split else {}
    blends = {
        name: tuple(
            Blend.copy(expert, noisy=copy > 0) for expert in range(number) for copy in range(copies)
        )
        for name, number in counts(config).items()
    }
    asked: dict[str, Any] = {"copies": copies, "split": split, "noise": noise, "seed": seed}
    back = ""
    if noise == 0:
        back = _first_of(copies, counts(config))
    if back and split:
        back = _fewer(copies, config, routers)
    if not split:
        why = (
            "equal rows of a router tie, and the copies take each other's places among the choices"
        )
    elif noise > 0:
        why = f"noise of {noise:g} of each weight's deviation on every copy but the first"
    else:
        why = "a token takes all copies of its experts, which share the weight"
    preserved = split and noise == 0 and never_drops(config)
    return Recast(
        "clone", blends, Expectation(preserved, why, back), asked, routers, noise=noise, seed=seed
    )


def split(config: ModelConfig, parts: int) -> Recast:
    """Every expert becomes ``parts`` with a share of its hidden units each, side by side; a token
    takes all of them.

    Raises:
        UserError: hidden units cannot be shared out evenly, or the routers cannot choose so.
    """
    layers = sparse_layers(config)
    require_rows(layers)
    require(parts >= 2, "--parts", parts, "at least 2")
    moe = config.moe
    if moe is not None and moe.shared_experts:
        raise UserError(
            f"model.moe.shared_experts = {moe.shared_experts}: must be 0 for splitting, since they "
            "are as wide as the others"
        )
    width = next(iter(layers.values())).network.d_ff
    if width % parts:
        raise UserError(
            f"--parts {parts}: must be a divisor of the experts' hidden units ({width})"
        )
    most_experts("--parts", parts, parts * max(counts(config).values()))
    routers = _shared(config, parts, "--parts")
    blends = {
        name: tuple(Blend.copy(e, part) for e in range(number) for part in range(parts))
        for name, number in counts(config).items()
    }
    why = "a token takes all shares of its experts, of which each has a share of the weight"
    return Recast(
        "split",
        blends,
        Expectation(never_drops(config), why),
        {"parts": parts},
        routers,
        parts=parts,
    )


def grow(
    config: ModelConfig,
    more: int,
    sources: Orders | None,
    noise: float = 0.0,
    seed: int = 0,
    router_std: float = 0.02,
    asleep: bool = False,
) -> Recast:
    """``more`` experts behind those that are there, copies of ``sources[layer]`` in turn with
    their rows of the router, or fresh ones.

    With ``asleep`` the bias that follows the loads (DeepSeek-V3's) begins so low for them that no
    token takes one; each step of training raises it, until they are chosen.

    Raises:
        UserError: a number that cannot be, or a source that is no expert.
    """
    layers = sparse_layers(config)
    require_rows(layers)
    require(more >= 1, "--more", more, "at least 1")
    most_experts("--more", more, more + max(counts(config).values()))
    finite("--noise", noise)
    finite("--router-std", router_std)
    if sources is None and noise > 0:
        raise UserError(
            f"--noise {noise:g}: goes with copies; the experts of --of fresh are drawn, each on "
            "its own"
        )
    blends = {}
    for name, number in counts(config).items():
        added = [Blend(())] * more
        if sources is not None:
            given = sources[name]
            for expert in given:
                _check_expert(expert, number, name)
            added = [Blend.copy(given[i % len(given)], noisy=True) for i in range(more)]
        blends[name] = (*map(Blend.copy, range(number)), *added)
    back = _kept(range(next(iter(counts(config).values()))), len(set(counts(config).values())) == 1)
    why = "the routers choose among more experts, which take a part of the probability"
    if asleep:
        _check_asleep(config)
        why = "the bias that follows the loads keeps the new experts from being chosen at first"
    asked: dict[str, Any] = {"more": more, "noise": noise, "seed": seed, "asleep": asleep}
    asked["of"] = "fresh" if sources is None else {name: list(s) for name, s in sources.items()}
    return Recast(
        "grow",
        blends,
        Expectation(asleep and never_drops(config), why, back),
        asked,
        noise=noise,
        seed=seed,
        router_std=router_std,
        asleep=asleep,
    )


def keep_only(config: ModelConfig, kept: Sequence[int]) -> Recast:
    """The experts of these numbers alone, in this order, in every layer.

    Raises:
        UserError: a number that is no expert's, or one that is given twice.
    """
    layers = sparse_layers(config)
    require_rows(layers)
    for name, number in counts(config).items():
        for expert in kept:
            _check_expert(expert, number, name)
    require(len(set(kept)) == len(kept), "--experts", list(kept), "different numbers")
    check_keep(config, len(kept), "--experts")
    blends = {name: tuple(map(Blend.copy, kept)) for name in layers}
    why = f"experts are gone, and the routers choose among the {len(kept)} that are left"
    return Recast("prune", blends, Expectation(False, why), {"experts": list(kept)})


def check_keep(config: ModelConfig, keep: int, option: str = "--keep") -> None:
    """Raises UserError unless every layer has as many experts, and its router chooses no more."""
    for name, layer in sparse_layers(config).items():
        assert layer.moe is not None
        number, least = experts_of(layer), layer.moe.router.active
        require(
            least <= keep <= number,
            option,
            keep,
            f"from {least}, the choices of the router, to {number}, the experts of {name}",
            "" if keep >= least else "choose fewer first (`turnout surgery choices`)",
        )


def _check_asleep(config: ModelConfig) -> None:
    for layer in sparse_layers(config).values():
        assert layer.moe is not None
        _check_load_bias(layer.moe.router)


@singledispatch
def _check_load_bias(router: RouterConfig) -> None:
    raise UserError(
        f"--asleep: model.moe.router.kind = {router.kind!r}: must be 'sigmoid_top_k', whose bias "
        "wakes the new experts; in a softmax every expert takes a part of the probability"
    )


@_check_load_bias.register
def _(router: SigmoidTopKRouter) -> None:
    require(
        router.bias_rate > 0,
        "--asleep: model.moe.router.bias_rate",
        router.bias_rate,
        "above 0",
        "the bias that it moves wakes the new experts",
    )


def _check_expert(expert: int, number: int, layer: str) -> None:
    require(0 <= expert < number, "expert", expert, f"one of 0 to {number - 1} in {layer}")


def _shared(config: ModelConfig, copies: int, option: str) -> dict[str, RouterConfig | None]:
    assert config.moe is not None
    found: dict[str, RouterConfig | None] = {}
    for name in ("router", "decoder_router"):
        router = getattr(config.moe, name)
        found[name] = None if router is None else halved(router, copies)
        if router is not None and found[name] is None:
            raise UserError(f"{option}: model.moe.{name}.{_why_not(router, copies)}")
    return found


@singledispatch
def _why_not(router: RouterConfig, copies: int) -> str:
    return (
        f"kind = {router.kind!r} cannot choose {copies} equal experts together; switch, top_k, "
        "noisy_top_k, top2 and sigmoid_top_k can"
    )


@_why_not.register
def _(router: Top2Router, copies: int) -> str:
    return (
        f"second_in_evaluation = {router.second_in_evaluation!r}: must be 'all', or some of "
        f"{copies} equal experts are not taken"
    )


def _first_of(
    copies: int, numbers: Mapping[str, int], run: str = "{run}", out: str = "{out}"
) -> str:
    same = len(set(numbers.values())) == 1
    return _kept(range(0, next(iter(numbers.values())) * copies, copies), same, run, out)


def _fewer(copies: int, config: ModelConfig, routers: Mapping[str, Any]) -> str:
    """As few choices as before, of which there may be more than experts then, and the first of
    each; where that makes the old router of the new one."""
    moe = config.moe
    assert moe is not None
    many = replace(moe, num_experts=moe.num_experts * copies, pyramid=(), **routers)
    pruned = _first_of(copies, counts(config), "{out}", "{out}-2")
    if not pruned or not goes_back(moe, many):
        return ""
    return f"{{turnout}} surgery choices {{run}} --out {{out}} --k {moe.router.active} && {pruned}"


def _kept(experts: Sequence[int], same: bool, run: str = "{run}", out: str = "{out}") -> str:
    """The command that keeps these, where it is the same in every layer."""
    words = ",".join(map(str, experts))
    return f"{{turnout}} surgery prune {run} --out {out} --experts {words}" if same else ""


def _plain(scores: Scores) -> dict[str, list[float]]:
    return {name: [float(score) for score in values] for name, values in scores.items()}
