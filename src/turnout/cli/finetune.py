"""``turnout finetune``: go on from a model, on a task or on other text."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from turnout.cli.arguments import Parser, alone, command, option_names, split_dotted
from turnout.cli.launch import Launch
from turnout.cli.resolve import fresh_folder
from turnout.cli.train import add_begin, again, begin
from turnout.cli.user_code import add_trust, trust
from turnout.config import io
from turnout.config.errors import UserError
from turnout.config.finetune import RECIPES, finetuned, recipe_of
from turnout.config.objective import ObjectiveConfig, TextToTextConfig
from turnout.config.train import RunConfig


def run(arguments: Sequence[str]) -> int:
    """Fine-tune, or say of a run that was what it did."""
    launch = Launch.of_environment()
    return launch.run(lambda: _run(arguments, launch))


def _run(arguments: Sequence[str], launch: Launch) -> int:
    rest, dotted = split_dotted(arguments)
    parser = _parser()
    options = parser.parse(rest, option_names(_example()))
    trust(options.trust)
    if options.report:
        alone(parser, options, "report", ("model",), dotted)
        return _report(Path(options.model))
    if not options.data:
        raise UserError("--data: required; give .jsonl files of inputs and targets, or text")
    config = _configured(options, dotted)
    folder = again(launch) or fresh_folder(config, options.out)
    options.out = str(folder)
    code = begin(config, options, launch)
    if code or options.dry_run or not launch.first:
        return code
    return _report(folder)


def _parser() -> Parser:
    recipes = "\n".join(f"  {name:<8} {recipe.summary}" for name, recipe in RECIPES.items())
    parser = Parser(
        "turnout finetune",
        "Go on from a model, on a task or on other text; say whether it overfitted and how far "
        "its routing went.",
        f"recipes:\n{recipes}\n\nDotted options such as --train.steps 200, --model.dropout 0.2 or "
        "--optimizer.learning_rate 1e-4 apply.",
    )
    parser.add_argument("model", metavar="MODEL", help="a run's folder, or a Hugging Face one")
    parser.add_argument(
        "--data", nargs="+", metavar="PATH", help=".jsonl files of inputs and targets, or text"
    )
    parser.add_argument(
        "--trains",
        nargs="+",
        metavar="WORD",
        help="what changes: all, non-experts, router, experts, experts:top25%% (by load on the "
        "data), attention, ffn, or a pattern of names; default all",
    )
    parser.add_argument("--recipe", metavar="NAME", help="sparse, dense or plain; default by model")
    parser.add_argument(
        "--balance",
        choices=("on", "off"),
        default="on",
        help="the router's losses: as in pre-training, or none; default on",
    )
    parser.add_argument(
        "--objective", metavar="KIND", help="text_to_text for .jsonl, else as before"
    )
    add_begin(parser, "runs/finetune-NAME")
    parser.add_argument(
        "--report", action="store_true", help="MODEL is a run that was fine-tuned: say what it did"
    )
    add_trust(parser)
    return parser


def _configured(options: argparse.Namespace, dotted: dict[str, str]) -> RunConfig:
    from turnout.convert.api import contents

    opened = contents(options.model)
    recipe = recipe_of(options.recipe, opened.run.model)
    config = finetuned(
        opened.run,
        options.model,
        recipe,
        tuple(options.data),
        _objective(options, opened.run.objective),
        foreign=not opened.trained,
    )
    if options.balance == "off":
        config = replace(config, losses=config.losses.without_router())
    if options.trains:
        config = replace(config, train=replace(config.train, trained=tuple(options.trains)))
    return io.override(config, dotted)


def _objective(options: argparse.Namespace, before: ObjectiveConfig) -> ObjectiveConfig:
    examples = all(path.endswith(".jsonl") for path in options.data)
    if options.objective is None:
        return TextToTextConfig() if examples else before
    if options.objective == before.kind:
        return before
    found: ObjectiveConfig = io.from_dict(
        ObjectiveConfig, {"kind": options.objective}, None, "objective"
    )
    return found


def _example() -> RunConfig:
    """Whose dotted options an error may suggest."""
    from turnout.config import presets

    return presets.run("switch_tiny")


def _report(folder: Path) -> int:
    from turnout.finetune.report import report

    found = report(folder)
    print("\n".join(found.lines()))
    print(f"written: {found.save()}")
    print(f"best checkpoint: {found.best}")
    print(f"next: {command()} eval {found.best} --task TASK")
    return 0
