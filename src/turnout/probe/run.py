"""From a run folder to its picture and the figures behind it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path
from typing import Any

from turnout.checkpoint import folders
from turnout.checkpoint.read import load_meta
from turnout.config.objective import CausalConfig, PrefixConfig, SpanConfig, TextToTextConfig
from turnout.config.train import RunConfig
from turnout.data import pipeline
from turnout.data.pipeline import Data
from turnout.probe import pictures
from turnout.probe.curve import Curve, read_curve
from turnout.probe.reading import Reading, read
from turnout.probe.style import altair
from turnout.train.session import load_run, load_tokenizer

PICTURE, EXPERTS = "picture.png", "experts.json"
NGRAM_ORDER = 5


@dataclass(frozen=True)
class Measured:
    """What a run's newest checkpoint does with its held-out text.

    Attributes:
        folder: of the run.
        config: in the checkpoint, with what the machine at hand made of it.
        step: of the checkpoint.
        data: the run's text.
        rows: held-out rows that were read.
        bits: the baselines' names and bits, on the same rows.
        reading: which expert reads what.
    """

    folder: Path
    config: RunConfig
    step: int
    data: Data
    rows: int
    bits: Mapping[str, float]
    reading: Reading


def measure(run_folder: Path, bits: Mapping[str, float] | None = None) -> Measured:
    """Load the newest checkpoint of a run and let it read the held-out text.

    Args:
        run_folder: of a run with a complete checkpoint, or one of its step folders.
        bits: the baselines' names and bits when they are known; measured here otherwise.

    Raises:
        UserError: the folder is not that of a run, or its text is not there.
    """
    checkpoint = folders.latest(Path(run_folder))
    config, model = load_run(checkpoint)
    data = pipeline.build(config, load_tokenizer(checkpoint))
    held_out = data.validation()
    return Measured(
        run_of(checkpoint, Path(run_folder)),
        config,
        int(load_meta(checkpoint)["step"]),
        data,
        sum(len(batch.row) for batch in held_out),
        baselines(config.objective, data) if bits is None else bits,
        read(model, held_out, data.tokenizer),
    )


def draw(run_folder: Path, bits: Mapping[str, float] | None = None) -> tuple[Path, ...]:
    """Write ``picture.png`` and, for a sparse model, ``experts.json`` into a run folder.

    Args:
        run_folder, bits: see ``measure``.

    Returns:
        The files written.

    Raises:
        UserError: altair is not installed, or the folder is not that of a run.
    """
    altair()
    checkpoint = folders.latest(Path(run_folder))
    read_curve(run_of(checkpoint, Path(run_folder)))
    return draw_measured(measure(run_folder, bits))


def draw_measured(measured: Measured) -> tuple[Path, ...]:
    """``draw`` of what is measured already."""
    folder, config, data = measured.folder, measured.config, measured.data
    curve = read_curve(folder)
    chart = pictures.run_picture(
        curve,
        measured.bits,
        measured.reading,
        _title(config, curve, measured.step),
        _subtitle(config, data, measured.rows),
        unit(config),
    )
    written = [pictures.save(chart, folder / PICTURE)]
    if measured.reading.layers:
        written.append(_write(folder / EXPERTS, config, measured.step, data, measured.reading))
    return tuple(written)


def run_of(checkpoint: Path, given: Path) -> Path:
    """The run folder that a checkpoint found through ``given`` belongs to."""
    return checkpoint.parent.parent if checkpoint == given else given


def unit(config: RunConfig) -> str:
    """What the curve of a run measures."""
    hidden = config.objective.kind == SpanConfig.kind
    return "bits per hidden byte" if hidden else "bits per byte"


@singledispatch
def baselines(objective: object, data: Data) -> dict[str, float]:
    """What needs no model, on the same held-out text and in the same unit."""
    raise TypeError(f"no baseline for {type(objective).__name__}")


@baselines.register
def _(objective: CausalConfig | PrefixConfig | TextToTextConfig, data: Data) -> dict[str, float]:
    if data.no_ngrams():
        return {"token frequencies": data.bits_per_byte(data.unigram_nats())}
    orders = data.ngram_bits(NGRAM_ORDER)
    return {"byte frequencies (order 0)": orders[0], f"order-{NGRAM_ORDER} n-gram": orders[-1]}


@baselines.register
def _(objective: SpanConfig, data: Data) -> dict[str, float]:
    return {"token frequencies": data.bits_per_byte(data.unigram_nats())}


def _title(config: RunConfig, curve: Curve, step: int) -> str:
    name = config.preset if config.model.moe is not None else f"{config.preset} (dense)"
    ended = f", {curve.validation[-1].bits:.2f} {unit(config)}" if curve.validation else ""
    return f"{name} after {step:,} steps{ended}{' on held-out text' if ended else ''}"


def _subtitle(config: RunConfig, data: Data, rows: int) -> str:
    moe, model = config.model.moe, config.model
    parameters = f"{model.num_params():,} parameters"
    sparse = "" if moe is None else f"{moe.num_experts} experts a sparse layer, "
    active = "" if moe is None else f", {model.num_active_params():,} of them active for a token"
    return (
        f"{sparse}{parameters}{active}; trained on {data.train_bytes:,} bytes, "
        f"measured on {rows:,} rows of documents that it has not seen"
    )


def _write(path: Path, config: RunConfig, step: int, data: Data, reading: Reading) -> Path:
    content: dict[str, Any] = {
        "preset": config.preset,
        "step": step,
        "text_sha256": data.summary.sha256,
        **reading.to_dict(),
    }
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="ascii")
    return path
