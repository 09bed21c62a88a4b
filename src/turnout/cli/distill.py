"""``turnout distill``: train a student on what a teacher says, and see what it keeps of it."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from turnout.cli.arguments import Parser, alone, option_names, split_dotted
from turnout.cli.launch import Launch
from turnout.cli.train import add_begin, begin
from turnout.cli.user_code import add_trust, trust
from turnout.config import io, presets
from turnout.config.distillation import DistillationConfig
from turnout.config.errors import UserError
from turnout.config.losses import LossConfig
from turnout.config.model import ModelConfig
from turnout.config.presets import dense_twin
from turnout.config.start import StartConfig
from turnout.config.train import RunConfig


def run(arguments: Sequence[str]) -> int:
    """Distil as the arguments say, or say how much of a teacher's gain students keep."""
    launch = Launch.of_environment()
    return launch.run(lambda: _run(arguments, launch))


def _run(arguments: Sequence[str], launch: Launch) -> int:
    rest, dotted = split_dotted(arguments)
    parser = _parser()
    options = parser.parse(rest, option_names(presets.run("switch_tiny")))
    trust(options.trust)
    if options.gain:
        alone(parser, options, "gain", ("teacher", "dense", "control", "data"), dotted)
        from turnout.cli.distill_gain import tell_gain

        return tell_gain(options)
    for name in ("dense", "control"):
        if getattr(options, name) is not None:
            raise UserError(f"--{name}: goes with --gain, which compares runs that are there")
    return begin(_configured(options, dotted), options, launch)


def _parser() -> Parser:
    parser = Parser(
        "turnout distill",
        "Train a student on a teacher's predictions and the text: sparse to dense, dense to "
        "sparse, or to a smaller model.",
        "With --gain RUN [RUN ...] nothing is trained: the share of the teacher's gain over the "
        "dense model that these students keep, on the teacher's held-out text.\n"
        "Dotted options such as --train.steps 600 or --distillation.temperature 2 apply.",
    )
    parser.add_argument("teacher", metavar="TEACHER", help="a run's folder, or a Hugging Face one")
    parser.add_argument(
        "--student",
        metavar="MODEL",
        help="a preset, or a folder whose model goes on; default: the teacher's dense twin",
    )
    parser.add_argument(
        "--start",
        choices=("teacher", "fresh"),
        help="a new student's weights: those that the teacher has too, or fresh ones; default "
        "teacher; a folder's model has its own",
    )
    parser.add_argument(
        "--soft", type=float, default=0.25, help="the teacher's share of the loss; default 0.25"
    )
    parser.add_argument(
        "--until", type=float, default=1.0, help="share of the run with the teacher; default 1"
    )
    parser.add_argument(
        "--top", type=int, default=0, metavar="K", help="keep the teacher's K best tokens on disk"
    )
    parser.add_argument("--data", nargs="+", metavar="PATH", help="default: what the teacher read")
    add_begin(parser, "runs/distill-NAME")
    parser.add_argument("--gain", nargs="+", metavar="RUN", help="students to compare")
    parser.add_argument("--dense", metavar="RUN", help="with --gain: the dense model")
    parser.add_argument(
        "--control", metavar="RUN", help="with --gain: the same initialisation without a teacher"
    )
    add_trust(parser)
    return parser


def _configured(options: argparse.Namespace, dotted: dict[str, str]) -> RunConfig:
    from turnout.convert.api import contents

    opened = contents(options.teacher)
    if not opened.trained and not options.data:
        raise UserError(
            f"--data: required; {options.teacher} does not say what its model was trained on"
        )
    config = _student(options, with_data(opened.run, options.data))
    lesson = DistillationConfig(
        options.teacher, soft=options.soft, until=options.until, top=options.top
    )
    return io.override(replace(config, distillation=lesson, out="runs/distill-{preset}"), dotted)


def with_data(config: RunConfig, paths: Sequence[str] | None) -> RunConfig:
    """The run on other text, where there is any."""
    if not paths:
        return config
    return replace(config, data=replace(config.data, paths=tuple(paths), mixture=None))


def _student(options: argparse.Namespace, source: RunConfig) -> RunConfig:
    """The teacher's run with the student's model, and where its weights come from."""
    from turnout.convert.api import contents

    fresh = options.start == "fresh"
    start = StartConfig() if fresh else StartConfig(options.teacher, "shared")
    if options.student is None:
        if source.model.moe is None:
            raise UserError(
                f"--student: required, since {options.teacher} is dense and has no dense twin; "
                "name a preset or a folder"
            )
        return replace(dense_twin(source), start=start)
    if Path(options.student).is_dir():
        if options.start is not None:
            raise UserError(f"--start {options.start}: {options.student} has weights of its own")
        student = contents(options.student).run
        losses = _router_losses(student.losses, student.model)
        own = StartConfig(options.student)
        return replace(source, model=student.model, losses=losses, start=own)
    preset = presets.run(options.student, source.objective.kind)
    model = replace(preset.model, vocab_size=source.model.vocab_size)
    changed = replace(source, model=model, losses=preset.losses, preset=options.student)
    return replace(changed, start=start)


def _router_losses(losses: LossConfig, model: ModelConfig) -> LossConfig:
    """Those that the model was trained with; of one that was dense before surgery, and so had none,
    the usual ones."""
    if model.moe is None or losses != losses.without_router():
        return losses
    usual = LossConfig()
    return replace(losses, balance=usual.balance, router_z=usual.router_z)
