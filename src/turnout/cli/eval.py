"""``turnout eval``: the language loss of a run on its held-out text, or on other text."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from turnout.cli.arguments import Parser, split_dotted
from turnout.cli.user_code import add_trust, trust


def run(arguments: Sequence[str]) -> int:
    """Evaluate a run as the arguments say."""
    rest, dotted = split_dotted(arguments)
    options = _parser().parse(rest)
    trust(options.trust)
    return _evaluate(Path(options.run), options.data, dotted)


def _parser() -> Parser:
    parser = Parser(
        "turnout eval",
        "Evaluate a run's last checkpoint: language loss alone, every other term beside it.",
        "Dotted options such as --train.eval_rows 512 or --model.moe.eval_capacity_factor 2 apply.",
    )
    parser.add_argument("run", metavar="RUN", help="a run's folder, or one of its step folders")
    parser.add_argument(
        "--data", nargs="+", metavar="PATH", help="evaluate on the held-out share of this text"
    )
    add_trust(parser)
    return parser


def _evaluate(folder: Path, paths: list[str] | None, dotted: dict[str, str]) -> int:
    from turnout import objectives
    from turnout.checkpoint import folders
    from turnout.checkpoint.read import load_meta
    from turnout.cli.build_progress import build_progress
    from turnout.config import io
    from turnout.data import pipeline
    from turnout.train.evaluate import evaluate
    from turnout.train.hooks.figures import bits_unit, evaluation_line
    from turnout.train.session import load_run, load_tokenizer, saved_config

    config = io.override(saved_config(folder), dotted)
    if paths:
        config = replace(config, data=replace(config.data, paths=tuple(paths)))
    config, model = load_run(folder, config)
    data = pipeline.build(config, load_tokenizer(folder, config), build_progress())
    step = int(load_meta(folders.latest(folder))["step"])
    objective = objectives.build(config.losses, config.model)
    evaluation = evaluate(model, objective, data.validation(), step, data.source_names)
    print(f"data: {data.summary.text()}")
    print(evaluation_line(evaluation, bits_unit(config)))
    print(f"{evaluation.targets:,} targets, {evaluation.seconds:.1f} s")
    return 0
