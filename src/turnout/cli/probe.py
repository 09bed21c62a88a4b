"""``turnout probe``: the picture of a run, which expert reads what as JSON, and its routing."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from turnout.cli.arguments import Parser, command
from turnout.cli.user_code import add_trust, trust
from turnout.config.errors import UserError


def run(arguments: Sequence[str]) -> int:
    """Draw a run, or record its routing, and print the paths of what was written."""
    parser = Parser(
        "turnout probe",
        "Draw a run: its learning curve, and which expert reads what (picture.png, experts.json). "
        "Or record what its routers decide.",
    )
    parser.add_argument("run", metavar="RUN", help="a run's folder, or one of its step folders")
    parser.add_argument(
        "--record",
        metavar="FILE",
        help="instead of drawing, write which expert each held-out token goes to (FILE, as "
        "safetensors) and the run's configuration (beside it, as TOML)",
    )
    parser.add_argument(
        "--rows", type=int, metavar="N", help="with --record: rows; default train.eval_rows"
    )
    add_trust(parser)
    options = parser.parse(arguments)
    if options.rows is not None and options.record is None:
        raise UserError("--rows: goes with --record alone; leave it out")
    trust(options.trust)
    if options.record is not None:
        return _record(options)
    from turnout.probe.run import draw

    for path in draw(Path(options.run)):
        print(path)
    return 0


def _record(options: argparse.Namespace) -> int:
    """The record, the configuration beside it, and what to do with both."""
    from turnout.config import io
    from turnout.probe.recording import record
    from turnout.train.session import saved_config

    path = Path(options.record)
    beside = path.with_suffix(".toml")
    if not path.resolve().parent.is_dir():
        raise UserError(f"--record {path}: its folder does not exist; make it, or name another")
    if path == beside:
        raise UserError(f"--record {path}: its configuration goes there; name FILE.safetensors")
    found = record(Path(options.run), path, options.rows, _tell)
    tokens = sum(int((layer.named >= 0).any(2).sum()) for layer in found.layers)
    rows = len(found.layers[0].named)
    print(f"{path}: {rows:,} rows, {len(found.names)} sparse layers, {tokens:,} routed tokens")
    beside.write_text(io.dump_toml(saved_config(Path(options.run))), encoding="utf-8")
    print(f"{beside}: the configuration of the run")
    words = ("simulate", "--config", str(beside), "--what-if", str(path))
    print(f"next: {command()} {shlex.join(words)}")
    return 0


def _tell(done: int, of: int) -> None:
    print(f"recording: micro-batch {done} of {of}", file=sys.stderr, flush=True)
