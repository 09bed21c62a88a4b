"""``turnout distill``: train a student on what a teacher says, and see what it keeps of it."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from turnout.cli.arguments import Parser, option_names, split_dotted
from turnout.cli.launch import Launch
from turnout.cli.resolve import fresh_folder
from turnout.cli.train import Run, describe, train
from turnout.cli.user_code import add_trust, trust
from turnout.config import io, presets
from turnout.config.distillation import DistillationConfig
from turnout.config.errors import UserError
from turnout.config.layout import over_ranks
from turnout.config.model import ModelConfig
from turnout.config.presets import dense_twin
from turnout.config.start import StartConfig
from turnout.config.train import RunConfig


def run(arguments: Sequence[str]) -> int:
    """Distil as the arguments say, or say how much of a teacher's gain students keep."""
    rest, dotted = split_dotted(arguments)
    options = _parser().parse(rest, option_names(presets.run("switch_tiny")))
    trust(options.trust)
    if options.gain:
        return _gain(options)
    for name in ("dense", "control"):
        if getattr(options, name) is not None:
            raise UserError(f"--{name}: goes with --gain, which compares runs that are there")
    config = _configured(options, dotted)
    if options.dry_run:
        print(describe(config), end="")
        return 0
    launch = Launch.of_environment()
    folder = fresh_folder(config, options.out)
    plan = over_ranks(config, launch.size)
    return train(config, Run(launch, plan, folder, None, options.hook))


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
        default="teacher",
        help="a new student's weights: those that the teacher has too, or fresh ones",
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
    parser.add_argument("--out", metavar="DIR", help="the run's folder; default runs/distill-NAME")
    parser.add_argument("--hook", action="append", default=[], metavar="MODULE:FACTORY")
    parser.add_argument("--dry-run", action="store_true", help="print the configuration and stop")
    parser.add_argument("--gain", nargs="+", metavar="RUN", help="students to compare")
    parser.add_argument("--dense", metavar="RUN", help="with --gain: the dense model")
    parser.add_argument(
        "--control", metavar="RUN", help="with --gain: the same initialisation without a teacher"
    )
    add_trust(parser)
    return parser


def _configured(options: argparse.Namespace, dotted: dict[str, str]) -> RunConfig:
    from turnout.convert.api import contents

    source = contents(options.teacher).run
    config = _student(options, source)
    config = replace(
        config,
        distillation=DistillationConfig(
            options.teacher, soft=options.soft, until=options.until, top=options.top
        ),
        out="runs/distill-{preset}",
    )
    if options.data:
        data = replace(config.data, paths=tuple(options.data), mixture=None)
        config = replace(config, data=data)
    return io.override(config, dotted)


def _student(options: argparse.Namespace, source: RunConfig) -> RunConfig:
    """The teacher's run with the student's model, and where its weights come from."""
    from turnout.convert.api import contents

    shared = StartConfig(options.teacher, "shared")
    start = shared if options.start == "teacher" else StartConfig()
    if options.student is None:
        if source.model.moe is None:
            raise UserError(
                f"--student: required, since {options.teacher} is dense and has no dense twin; "
                "name a preset or a folder"
            )
        return replace(dense_twin(source), start=start, distillation=None)
    if Path(options.student).is_dir():
        model = contents(options.student).run.model
        return _with_model(source, model, StartConfig(options.student))
    preset = presets.run(options.student, source.objective.kind)
    losses = preset.losses
    model = replace(preset.model, vocab_size=source.model.vocab_size)
    return replace(_with_model(source, model, start), losses=losses, preset=options.student)


def _with_model(source: RunConfig, model: ModelConfig, start: StartConfig) -> RunConfig:
    losses = source.losses if model.moe else source.losses.without_router()
    return replace(source, model=model, start=start, losses=losses, distillation=None)


def _gain(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from turnout.convert.api import contents, load
    from turnout.data import pipeline
    from turnout.finetune.gain import RowLoss, gain_kept, row_loss
    from turnout.train.session import load_tokenizer

    if options.dense is None:
        raise UserError("--dense: required with --gain; the run that the teacher is better than")
    config = contents(options.teacher).run
    if options.data:
        config = replace(config, data=replace(config.data, paths=tuple(options.data), mixture=None))
    batches = pipeline.build(config, load_tokenizer(options.teacher, config)).validation()

    def losses(path: str) -> RowLoss:
        return row_loss(load(path), batches)

    students = list(options.gain) + ([options.control] if options.control else [])
    teacher, dense = losses(options.teacher), losses(options.dense)
    kept = gain_kept(teacher, dense, {name: losses(name) for name in students})
    table = Table(title=f"held-out text of {options.teacher}: {len(teacher.nats)} rows")
    for heading in ("model", "nats a target", "share of the gain", "95% of rows"):
        table.add_column(heading)
    table.add_row(f"teacher {options.teacher}", f"{teacher.mean:.4f}", "100%", "")
    table.add_row(f"dense {options.dense}", f"{dense.mean:.4f}", "0%", "")
    for name, each in kept.items():
        what = "control" if name == options.control else "student"
        interval = f"{each.low:.1%} to {each.high:.1%}"
        table.add_row(f"{what} {name}", f"{each.loss:.4f}", f"{each.share:.1%}", interval)
    Console().print(table)
    return 0
