"""``turnout check leak``: whether the tokens of a model read their future."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from turnout.cli.arguments import Parser, split_dotted
from turnout.cli.user_code import add_trust, trust
from turnout.config import io, presets
from turnout.config.errors import UserError
from turnout.config.train import RunConfig

if TYPE_CHECKING:
    from turnout.models.base import Model

MOST_PARAMETERS = 500_000_000
LENGTH = 24
LENGTHS = ("length", "encoder_length", "decoder_length")


def run(arguments: Sequence[str]) -> int:
    """Print the leak in evaluation and in training; 1 where there is one."""
    rest, dotted = split_dotted(arguments)
    options = _parser().parse(rest)
    trust(options.trust)
    if options.capacity is not None:
        factors = ("train_capacity_factor", "eval_capacity_factor")
        dotted = {**{f"model.moe.{name}": options.capacity for name in factors}, **dotted}
    config, model = _opened(options.model, dotted)
    moe = config.model.moe
    if moe is not None:
        print(
            f"{options.model}: {moe.num_experts} experts, router {moe.router.kind}, priority "
            f"{moe.priority}, capacity factor {moe.train_capacity_factor} in training, "
            f"{moe.eval_capacity_factor} in evaluation"
        )
    from turnout.conformance.model_leak import model_leak

    leaks = 0
    for mode, training in (("evaluation", False), ("training", True)):
        found = model_leak(model, length=LENGTH, training=training)
        print(f"{mode:<11} {found.text()}")
        leaks += found.moved
    return 1 if leaks else 0


def _parser() -> Parser:
    parser = Parser(
        "turnout check leak",
        "Change a token of random text, cut the text, append to it: does anything earlier move?",
        "Dotted options such as --model.moe.priority choice apply.",
    )
    parser.add_argument("model", metavar="MODEL", help="a preset, or a run's folder")
    parser.add_argument(
        "--capacity", metavar="X", help="capacity factor in training and evaluation; or none"
    )
    add_trust(parser)
    return parser


def _opened(name: str, dotted: Mapping[str, str]) -> "tuple[RunConfig, Model]":
    """A run's model, or a preset's with the weights that training would start from."""
    from turnout import models
    from turnout.train.session import load_run, saved_config

    folder = Path(name) if Path(name).is_dir() else None
    config = presets.run(name) if folder is None else saved_config(folder)
    config = io.override(config, {**_defaults(config), **dotted})
    if folder is not None:
        return load_run(folder, config)
    parameters = config.model.num_params()
    if parameters > MOST_PARAMETERS:
        raise UserError(
            f"check leak {name}: has {parameters:,} parameters, at most {MOST_PARAMETERS:,} are "
            "built for this; give it fewer experts or layers by dotted options"
        )
    model = models.build(config.model)
    model.init_weights(config.train.seed)
    return config, model


def _defaults(config: RunConfig) -> dict[str, str]:
    """Rows as short as the text that is drawn, so that capacities bind as they do in long ones;
    and as a leak is what is looked for, a configuration that may have one is no error here."""
    model = config.model
    lengths = [f"model.{name}" for name, _ in io.flat(io.to_dict(model)) if name in LENGTHS]
    allowed = {} if model.moe is None else {"model.moe.allow_future_routing": "true"}
    return {**allowed, **{name: str(LENGTH) for name in lengths}}
