"""``turnout eval``: the language loss of a run on its held-out text, or how it does tasks."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from turnout.cli.arguments import Parser, split_dotted
from turnout.cli.eval_options import TASK_OPTIONS, add_task_options
from turnout.cli.user_code import add_trust, trust
from turnout.config.errors import UserError


def run(arguments: Sequence[str]) -> int:
    """Evaluate a run as the arguments say."""
    rest, dotted = split_dotted(arguments)
    parser = _parser()
    options = parser.parse(rest)
    if options.list:
        from turnout.cli.eval_tasks import listed

        print(listed())
        return 0
    if options.run is None and options.compare is None:
        parser.error("the following arguments are required: RUN")
    trust(options.trust)
    if options.task or options.compare:
        _check_tasks(options, dotted)
        from turnout.cli.eval_tasks import evaluate_tasks

        return evaluate_tasks(options)
    _refuse(options, TASK_OPTIONS, "goes with --task")
    if options.by_domain:
        from turnout.cli.eval_domains import evaluate_domains

        return evaluate_domains(Path(options.run), options.data or [], dotted)
    return _evaluate(Path(options.run), options.data, dotted)


def _parser() -> Parser:
    parser = Parser(
        "turnout eval",
        "Evaluate a run's last checkpoint: the language loss alone, every other term beside it; or "
        "with --task how\nit does tasks, and with --compare how two runs differ in them.",
        "Dotted options such as --train.eval_rows 512 or --model.moe.eval_capacity_factor 2 apply "
        "without --task.",
    )
    parser.add_argument(
        "run",
        metavar="RUN",
        nargs="?",
        help="a run's folder, or one of its step folders; with --task a Hugging Face folder too",
    )
    parser.add_argument(
        "--data", nargs="+", metavar="PATH", help="evaluate on the held-out share of this text"
    )
    parser.add_argument(
        "--by-domain",
        action="store_true",
        help="perplexity and bits per byte of each source of a mixture, or of each --data path",
    )
    add_task_options(parser)
    add_trust(parser)
    return parser


def _check_tasks(options: Namespace, dotted: dict[str, str]) -> None:
    if not options.task:
        raise UserError("--compare: goes with --task; `turnout eval --list` names the tasks")
    if options.run is not None and options.compare is not None:
        raise UserError(f"--compare takes both runs: leave out {options.run}")
    _refuse(options, ("data", "by_domain"), "does not go with --task")
    if dotted:
        raise UserError(
            f"--{next(iter(dotted))}: does not go with --task, which reads no run's text"
        )


def _refuse(options: Namespace, names: Sequence[str], why: str) -> None:
    """An option without effect is an error."""
    for name in names:
        value = getattr(options, name)
        if value is not None and value is not False:
            raise UserError(f"--{name.replace('_', '-')}: {why}")


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
