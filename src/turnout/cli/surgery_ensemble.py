"""``turnout surgery ensemble``: several models on one text, alone and mixed."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from turnout.cli.arguments import Parser
from turnout.config.errors import UserError

if TYPE_CHECKING:
    from turnout.surgery.opened import Opened


def run(arguments: Sequence[str]) -> int:
    """Print bits per byte of each model and of both mixtures.

    Raises:
        UserError: fewer than two runs, other tokenizers, or no text.
    """
    options = _parser().parse(arguments)
    if len(options.runs) < 2:
        raise UserError("ensemble: mixes several models; name two runs or more")
    from turnout.cli.build_progress import build_progress
    from turnout.surgery.ensemble import Ensemble
    from turnout.surgery.opened import open_source
    from turnout.surgery.operate import loaded
    from turnout.surgery.rows import held_out

    sources = [open_source(path) for path in options.runs]
    first = sources[0]
    for note in _check_alike(sources):
        print(f"note: {note}")
    if not (first.has_text or options.data):
        raise UserError(f"--data: required, since {first.path} names no text")
    rows = held_out(first.run, first.tokenizer(), options.data, options.rows, build_progress())
    ensemble = Ensemble([loaded(source) for source in sources])
    totals = [0.0] * (len(sources) + 2)
    for batch in rows.batches:
        for number, nats in enumerate(ensemble.nats(batch)):
            totals[number] += float(nats[batch.target_mask].sum())
    names = [*options.runs, "mixture, equal shares", "mixture, by posterior"]
    width = max(map(len, names))
    for name, total in zip(names, totals, strict=True):
        print(f"{name:<{width}}  {total / math.log(2) / max(rows.text, 1):.4f} bits per byte")
    print(f"on {rows.count} {rows.what}")
    return 0


def _parser() -> Parser:
    parser = Parser(
        "turnout surgery ensemble",
        "Branch-Train-Merge: several models mixed by how likely each is after what was read.",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="runs' or Hugging Face folders")
    parser.add_argument(
        "--data", nargs="+", default=[], metavar="PATH", help="text; default the first run's"
    )
    parser.add_argument("--rows", type=int, default=16, metavar="N", help="of it; default 16")
    return parser


def _check_alike(sources: "Sequence[Opened]") -> tuple[str, ...]:
    """The same tokens mean the same text, for models of one kind."""
    from turnout.surgery.opened import require_one_text

    first = sources[0]
    for source in sources[1:]:
        if source.run.model.kind != first.run.model.kind:
            raise UserError(
                f"{source.path}: model.kind = {source.run.model.kind!r}: must be "
                f"{first.run.model.kind!r}, as in {first.path}; an ensemble has one kind of model"
            )
    return require_one_text(sources)
