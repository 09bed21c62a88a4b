"""The options of each operation of ``turnout surgery``, and the operation that they ask for."""

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from turnout.cli.arguments import Parser
from turnout.config.errors import UserError
from turnout.config.moe import Placement

if TYPE_CHECKING:
    from turnout.surgery.base import Surgery
    from turnout.surgery.observe import Observed
    from turnout.surgery.opened import Opened
    from turnout.surgery.operate import RowsOf
    from turnout.surgery.upcycle import Sparse

Options = argparse.Namespace
MEASURES = ("load", "saliency")


def upcycle(parser: Parser) -> None:
    """Of ``upcycle``."""
    parser.add_argument("--experts", type=int, default=8, metavar="E", help="default 8")
    _sparse(parser, every=2)
    parser.add_argument("--noise", type=float, default=0.0, metavar="STD", help=NOISE)
    parser.add_argument(
        "--scale-out",
        action="store_true",
        help="multiply outputs by what raw combine weights are expected to shrink them by",
    )


NOISE = "added to copies, relative to the deviation of each weight; default 0"


def build_upcycle(options: Options, sources: "tuple[Opened, ...]", rows: "RowsOf") -> "Surgery":
    """What was asked for."""
    from turnout.surgery.upcycle import Upcycle

    return Upcycle(_sparse_of(options, options.experts), options.noise, options.scale_out)


def btx(parser: Parser) -> None:
    """Of ``btx``."""
    _sparse(parser, every=1)


def build_btx(options: Options, sources: "tuple[Opened, ...]", rows: "RowsOf") -> "Surgery":
    """What was asked for."""
    from turnout.surgery.branches import Branches, require_alike

    require_alike([s.path for s in sources], [s.run.model for s in sources])
    if len(sources) < 2:
        raise UserError("btx: mixes several dense models; name two runs or more")
    return Branches(_sparse_of(options, len(sources)))


def dense(parser: Parser) -> None:
    """Of ``dense``."""
    parser.add_argument(
        "--expert",
        default="mean",
        metavar="WHICH",
        help="mean (default), heaviest, a number, or none: begin the networks anew",
    )


def build_dense(options: Options, sources: "tuple[Opened, ...]", rows: "RowsOf") -> "Surgery":
    """What was asked for."""
    from turnout.surgery import dense as made

    config = sources[0].run.model
    if options.expert == "mean":
        return made.mean(config)
    if options.expert == "none":
        return made.fresh(config, options.seed)
    if options.expert == "heaviest":
        return made.heaviest(config, _scores(_observed(sources, rows), "load"))
    if not _is_number(options.expert):
        raise UserError(f"--expert {options.expert}: must be mean, heaviest, none or a number")
    return made.number(config, int(options.expert))


def prune(parser: Parser) -> None:
    """Of ``prune``."""
    parser.add_argument("--keep", type=int, metavar="N", help="experts that every layer keeps")
    parser.add_argument(
        "--by", choices=MEASURES, default="saliency", help="what is measured; default saliency"
    )
    parser.add_argument("--experts", metavar="0,3,5", help="these, whatever is measured")


def build_prune(options: Options, sources: "tuple[Opened, ...]", rows: "RowsOf") -> "Surgery":
    """What was asked for."""
    from turnout.surgery import experts

    config = sources[0].run.model
    if (options.keep is None) == (options.experts is None):
        raise UserError("prune: takes --keep N or --experts 0,3,5, one of them")
    if options.experts is not None:
        return experts.keep_only(config, _numbers("--experts", options.experts))
    experts.check_keep(config, options.keep)
    return experts.prune(
        config, _scores(_observed(sources, rows), options.by), options.keep, options.by
    )


def merge(parser: Parser) -> None:
    """Of ``merge``."""
    parser.add_argument("--to", type=int, required=True, metavar="N", help="experts a layer")
    parser.add_argument(
        "--by",
        choices=("outputs", "weights"),
        default="outputs",
        help="what alike experts have alike; default their mean outputs",
    )


def build_merge(options: Options, sources: "tuple[Opened, ...]", rows: "RowsOf") -> "Surgery":
    """What was asked for."""
    from turnout.surgery import experts
    from turnout.surgery.observe import alike, flattened, observe
    from turnout.surgery.operate import loaded

    first = sources[0]
    experts.check_keep(first.run.model, options.to, "--to")
    model = loaded(first)
    found = observe(model, rows(first.run))
    vectors = {name: each.output for name, each in found.items()}
    if options.by == "weights":
        vectors = {name: flattened(layer) for name, layer in model.sparse_layers().items()}
    groups = {name: alike(each, options.to) for name, each in vectors.items()}
    return experts.merge(first.run.model, groups, _scores(found, "load"))


def grow(parser: Parser) -> None:
    """Of ``grow``."""
    parser.add_argument("--more", type=int, required=True, metavar="N", help="experts to add")
    parser.add_argument(
        "--of",
        default="heaviest",
        metavar="WHICH",
        help="heaviest (default): copies of those that serve most; 0,3: of these; fresh: none",
    )
    parser.add_argument("--noise", type=float, default=0.0, metavar="STD", help=NOISE)
    parser.add_argument(
        "--router-std", type=float, metavar="STD", help="of fresh rows; default 0.02"
    )
    parser.add_argument(
        "--asleep", action="store_true", help="let the bias of sigmoid_top_k wake them"
    )


def build_grow(options: Options, sources: "tuple[Opened, ...]", rows: "RowsOf") -> "Surgery":
    """What was asked for."""
    from turnout.surgery import experts
    from turnout.surgery.layers import sparse_layers

    if options.router_std is not None and options.of != "fresh":
        raise UserError("--router-std: goes with --of fresh; copies have the rows of their experts")
    config = sources[0].run.model
    of: Mapping[str, Sequence[int]] | None = None
    if options.of == "heaviest":
        loads = _scores(_observed(sources, rows), "load")
        of = {name: _falling(values)[: max(options.more, 1)] for name, values in loads.items()}
    elif options.of != "fresh":
        of = dict.fromkeys(sparse_layers(config), _numbers("--of", options.of))
    return experts.grow(
        config,
        options.more,
        of,
        options.noise,
        options.seed,
        0.02 if options.router_std is None else options.router_std,
        options.asleep,
    )


def split(parser: Parser) -> None:
    """Of ``split``."""
    parser.add_argument("--parts", type=int, required=True, metavar="M", help="shares of each")


def build_split(options: Options, sources: "tuple[Opened, ...]", rows: "RowsOf") -> "Surgery":
    """What was asked for."""
    from turnout.surgery import experts

    return experts.split(sources[0].run.model, options.parts)


def clone(parser: Parser) -> None:
    """Of ``clone``."""
    parser.add_argument("--copies", type=int, default=2, metavar="M", help="of each; default 2")
    parser.add_argument(
        "--split", action="store_true", help="let tokens take all copies, which share the weight"
    )
    parser.add_argument("--noise", type=float, default=0.0, metavar="STD", help=NOISE)


def build_clone(options: Options, sources: "tuple[Opened, ...]", rows: "RowsOf") -> "Surgery":
    """What was asked for."""
    from turnout.surgery import experts

    model = sources[0].run.model
    return experts.clone(model, options.copies, options.split, options.noise, options.seed)


def reorder(parser: Parser) -> None:
    """Of ``reorder``."""
    parser.add_argument(
        "--order",
        nargs="+",
        metavar="ORDER",
        help="2,0,1 for every layer, or LAYER=2,0,1 for each; default by falling load",
    )


def build_reorder(options: Options, sources: "tuple[Opened, ...]", rows: "RowsOf") -> "Surgery":
    """What was asked for."""
    from turnout.surgery import experts
    from turnout.surgery.layers import sparse_layers

    config = sources[0].run.model
    if options.order is None:
        loads = _scores(_observed(sources, rows), "load")
        return experts.reorder(config, {name: _falling(each) for name, each in loads.items()})
    orders: dict[str, Sequence[int]] = {}
    for word in options.order:
        name, equals, numbers = word.rpartition("=")
        for layer in [name] if equals else sparse_layers(config):
            orders[layer] = _numbers("--order", numbers)
    odd = sorted(orders.keys() ^ sparse_layers(config).keys())
    if odd:
        what = "no sparse layer" if odd[0] in orders else "given no order"
        known = ", ".join(sparse_layers(config))
        raise UserError(f"--order: {odd[0]} is {what}; sparse layers: {known}")
    return experts.reorder(config, orders)


def choices(parser: Parser) -> None:
    """Of ``choices``."""
    parser.add_argument("--k", type=int, required=True, metavar="K", help="experts a token")


def build_choices(options: Options, sources: "tuple[Opened, ...]", rows: "RowsOf") -> "Surgery":
    """What was asked for."""
    from turnout.surgery.choices import Choices

    return Choices(options.k)


def domains(parser: Parser) -> None:
    """Of ``domains``."""
    parser.add_argument("--add", action="store_true", help="one more domain, with the next label")
    parser.add_argument(
        "--of", default="mean", metavar="LABEL", help="whose expert it begins as; default the mean"
    )
    parser.add_argument("--remove", type=int, metavar="LABEL", help="the domain of that label")
    parser.add_argument("--noise", type=float, default=0.0, metavar="STD", help=NOISE)


def build_domains(options: Options, sources: "tuple[Opened, ...]", rows: "RowsOf") -> "Surgery":
    """What was asked for."""
    from turnout.surgery.domains import add_domain, remove_domain

    model = sources[0].run.model
    if options.add == (options.remove is not None):
        raise UserError("domains: takes --add or --remove LABEL, one of them")
    if options.remove is not None:
        if options.noise or options.of != "mean":
            raise UserError("--remove: takes neither --of nor --noise, which say how one is added")
        return remove_domain(model, options.remove)
    if options.of != "mean" and not _is_number(options.of):
        raise UserError(f"--of {options.of}: must be mean or a label")
    of = None if options.of == "mean" else int(options.of)
    return add_domain(model, of, options.noise, options.seed)


def _sparse(parser: Parser, every: int) -> None:
    parser.add_argument("--k", type=int, default=2, metavar="K", help="experts a token; default 2")
    parser.add_argument(
        "--every", type=int, default=every, metavar="N", help=f"every n-th layer; default {every}"
    )
    parser.add_argument("--first", type=int, default=0, metavar="L", help="from that layer on")
    parser.add_argument(
        "--weights",
        choices=("raw", "renormalised", "softmax_of_selected"),
        help="combine weights; default renormalised, raw where k is 1",
    )
    parser.add_argument(
        "--capacity", default="1.25", metavar="C", help="factor in training, or none; default 1.25"
    )
    parser.add_argument(
        "--split", type=int, default=1, metavar="M", help="cut each network into shares; default 1"
    )
    parser.add_argument(
        "--router-std", type=float, default=0.02, metavar="STD", help="of routers; default 0.02"
    )


def _sparse_of(options: Options, experts: int) -> "Sparse":
    from turnout.surgery.upcycle import Sparse

    try:
        capacity = None if options.capacity == "none" else float(options.capacity)
    except ValueError:
        raise UserError(f"--capacity {options.capacity}: must be a number or none") from None
    return Sparse(
        experts,
        options.k,
        options.weights,
        Placement(options.every, options.first),
        capacity,
        options.split,
        options.router_std,
        options.seed,
    )


def _observed(sources: "tuple[Opened, ...]", rows: "RowsOf") -> "dict[str, Observed]":
    from turnout.surgery.layers import sparse_layers
    from turnout.surgery.observe import observe
    from turnout.surgery.operate import loaded

    assert sparse_layers(sources[0].run.model)
    return observe(loaded(sources[0]), rows(sources[0].run))


def _scores(found: "Mapping[str, Observed]", by: str) -> dict[str, Sequence[float]]:
    return {name: each.load if by == "load" else each.saliency for name, each in found.items()}


def _falling(values: Sequence[float]) -> list[int]:
    return sorted(range(len(values)), key=lambda expert: (-values[expert], expert))


def _is_number(text: str) -> bool:
    """Digits of our own alone, and no more than ``int`` reads at once."""
    return text.isascii() and text.isdecimal() and len(text) < 10


def _numbers(option: str, text: str) -> list[int]:
    words = text.split(",")
    if not all(map(_is_number, words)):
        raise UserError(f"{option} {text}: must be numbers with commas between them, as 0,3,5")
    return list(map(int, words))
