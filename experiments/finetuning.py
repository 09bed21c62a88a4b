"""Knowledge and reasoning: a sparse and a dense model, fine-tuned on facts and on words in context.

    turnout data fetch facts tasks glosses
    python -m experiments.finetuning runs/finetuning > docs/results/finetuning.md

Both models of `switch_tiny` are trained on Python's library and WordNet's glosses, the same steps
and text. Then each is fine-tuned on closed-book facts and on `wic`: with the recipe's dropout and
without that of the experts, and with a part of the weights alone; the rate and the batch are the
same for both models. Stated before: the arms `all` and `no expert dropout` have three seeds, all
others one. `wic` is asked on its test split, 488 questions. Of the facts, a thousand are trained
on, and 500 of these are asked (`memory`), and 500 of the test split, on things that no example of
training asks about. The scores are those of the last step: twenty held-out facts do not say when a
model has remembered the others.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.cells import machine
from turnout.config import io
from turnout.config.cache import cache_folder
from turnout.config.mixture import MixtureConfig, SourceConfig
from turnout.config.presets import dense_twin
from turnout.config.presets import run as preset
from turnout.config.train import RunConfig

PRESET, STEPS, ROWS, TUNING, LIMIT = "switch_tiny", 800, 8, 200, 500
SEEDS, SHARE, KNOWN = (1, 2, 3), 0.02, 1000
# The rate is that of pre-training: of 4e-4, 8e-4 and 2e-3, tried once on the sparse model's facts,
# it remembered most. Rows are short, as the examples are: 58 and 119 bytes, 265 at most.
TUNED = {
    "train.steps": str(TUNING),
    "train.threads": "1",
    "train.batch_rows": "16",
    "model.length": "256",
    "optimizer.learning_rate": "0.002",
    # What is asked by memory must have been trained on: hardly anything is held out.
    "data.validation_share": str(SHARE),
}
CORPORA = cache_folder() / "corpora"
FACTS, WIC = CORPORA / "facts" / "closed-book", CORPORA / "tasks" / "wic"
TASKS = ("facts", "wic")
NO_EXPERT_DROPOUT = ("--model.moe.expert_dropout", "0")
ARMS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "sparse": {
        "all": (),
        "no expert dropout": NO_EXPERT_DROPOUT,
        "non-experts": ("--trains", "non-experts"),
        "experts": ("--trains", "experts"),
        "experts:top25%": ("--trains", "experts:top25%"),
        "router": ("--trains", "router"),
        "attention": ("--trains", "attention"),
        "ffn": ("--trains", "ffn"),
    },
    "dense": {
        "all": (),
        "attention": ("--trains", "attention"),
        "ffn": ("--trains", "ffn"),
    },
}
REPEATED = ("all", "no expert dropout")
Scores = dict[str, dict[str, dict[str, float]]]


@dataclass(frozen=True)
class Tuned:
    """A cell: a model, a task, what trains, and a seed; ``none`` is not fine-tuned."""

    model: str
    task: str
    arm: str
    seed: int

    @property
    def name(self) -> str:
        words = (self.model, self.task, self.arm, f"seed{self.seed}")
        return "-".join(word.replace(" ", "-").replace(":", "-").rstrip("%") for word in words)


def cells() -> Iterator[Tuned]:
    """The repeated arms first, seeds outermost, so that an early stop leaves whole tables."""
    for task in TASKS:
        yield from (Tuned(model, task, "none", 0) for model in ARMS)
    for seed in SEEDS:
        for repeated in (True, False):
            for model, arms in ARMS.items():
                for arm in arms:
                    if (arm in REPEATED) == repeated and (repeated or seed == SEEDS[0]):
                        yield from (Tuned(model, task, arm, seed) for task in TASKS)


def base() -> RunConfig:
    """The sparse model's pre-training."""
    config = preset(PRESET, "causal")
    sources = (
        SourceConfig("library"),
        SourceConfig("glosses", (str(CORPORA / "glosses" / "text"),)),
    )
    train = replace(config.train, steps=STEPS, batch_rows=ROWS, eval_every=200, save_every=STEPS)
    return replace(config, data=replace(config.data, mixture=MixtureConfig(sources)), train=train)


def pretrain(folder: Path, model: str) -> None:
    """Unless it is there."""
    place = folder / model
    if (place / "done").is_file():
        return
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    config = place.parent / f"{model}.toml"
    config.write_text(io.dump_toml(base() if model == "sparse" else dense_twin(base())))
    call(
        place, "train", PRESET, "--config", str(config), "--out", str(place), "--train.threads", "1"
    )
    (place / "done").touch()


def known(folder: Path) -> Path:
    """A folder with the facts that are trained on, and the tasks that ask them."""
    place = folder / "known"
    place.mkdir(parents=True, exist_ok=True)
    lines = (FACTS / "memory.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (place / "memory.jsonl").write_text("".join(lines[:KNOWN]), encoding="utf-8")
    for name in ("memory.toml", "memory-words.toml"):
        shutil.copy(FACTS / name, place)
    return place


def tune(folder: Path, cell: Tuned) -> None:
    """Fine-tunes and asks, unless that is done."""
    place, facts = folder / cell.name, folder / "known"
    if (place / "scores.json").is_file():
        return
    if not (place / "finetune.json").is_file():
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        if cell.arm != "none":
            options = {**TUNED, "train.seed": str(cell.seed)}
            data = facts / "memory.jsonl" if cell.task == "facts" else WIC / "train.jsonl"
            words = [word for name, value in options.items() for word in (f"--{name}", value)]
            words += ["--data", str(data), "--out", str(place), *ARMS[cell.model][cell.arm]]
            call(place, "finetune", str(folder / cell.model), *words)
    subject = folder / cell.model if cell.arm == "none" else place
    asked = {"facts": (facts / "memory.toml", FACTS, facts / "memory-words.toml"), "wic": (WIC,)}
    scores = place / "scores.part"
    how = ("--limit", str(LIMIT), "--split", "test", "--form", "text_to_text")
    tasks = map(str, asked[cell.task])
    call(place, "eval", str(subject), "--task", *tasks, *how, "--json", str(scores))
    scores.rename(place / "scores.json")


def call(place: Path, *arguments: str) -> None:
    """Notes the seconds that the command took; raises RuntimeError where it fails."""
    started = time.time()
    print(f"{time.strftime('%H:%M:%S')} {place.name}: {arguments[0]}", file=sys.stderr, flush=True)
    with (place / "output.txt").open("a") as output:
        code = subprocess.run(
            [sys.executable, "-m", "turnout", *arguments],
            stdout=output,
            stderr=output,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        ).returncode
    if code:
        raise RuntimeError(f"{place.name}: exit {code}, see {place / 'output.txt'}")
    with (place / "seconds.txt").open("a") as file:
        file.write(f"{arguments[0]} {time.time() - started:.1f}\n")


def seconds(place: Path) -> float:
    """Of a cell's commands, the last of each."""
    lines = (place / "seconds.txt").read_text().splitlines()
    return sum({command: float(taken) for command, taken in map(str.split, lines)}.values())


def scores(place: Path) -> Scores:
    """By task and measure; nothing where it is not done."""
    if not (place / "scores.json").is_file():
        return {}
    (run,) = json.loads((place / "scores.json").read_text())["runs"]
    found: Scores = {task["task"]: task["measures"] for task in run["tasks"]}
    return found


COLUMNS: Mapping[str, Sequence[tuple[str, str, str]]] = {
    "facts": (
        ("memory: accuracy", "closed-book-memory", "accuracy"),
        ("bits an answer byte", "closed-book-memory", "bits_per_answer_byte"),
        ("exact match", "closed-book-memory-words", "exact_match"),
        ("test: accuracy", "closed-book", "accuracy"),
        ("test: bits", "closed-book", "bits_per_answer_byte"),
    ),
    "wic": (("accuracy", "wic", "accuracy"), ("Brier", "wic", "brier")),
}


def shown(found: Sequence[Scores], task: str, measure: str) -> str:
    """One seed with its interval over questions, or the mean with the least and the largest."""
    rows: list[dict[str, Any]] = [each[task][measure] for each in found if task in each]
    if not rows:
        return ""
    values = [row["value"] for row in rows]
    low, high = (rows[0]["low"], rows[0]["high"]) if len(rows) == 1 else (min(values), max(values))
    return f"{fmean(values):.3f} ({low:.3f} to {high:.3f})"


def table(folder: Path, task: str) -> list[str]:
    """Markdown, a row an arm."""
    columns = COLUMNS[task]
    lines = [
        f"| model | trained | {' | '.join(name for name, _, _ in columns)} | seeds |",
        "|---" * (len(columns) + 3) + "|",
    ]
    grouped: dict[tuple[str, str], list[Scores]] = {}
    for cell in cells():
        found = scores(folder / cell.name) if cell.task == task else {}
        if found:
            grouped.setdefault((cell.model, cell.arm), []).append(found)
    for (model, arm), each in sorted(grouped.items(), key=lambda item: item[0][0], reverse=True):
        row = " | ".join(shown(each, name, measure) for _, name, measure in columns)
        lines.append(f"| {model} | {arm} | {row} | {len(each)} |")
    chances = {
        name: measures["accuracy"]["chance"]
        for each in grouped.values()
        for name, measures in each[0].items()
        if "accuracy" in measures
    }
    chance = ", ".join(f"{name} {value:.3f}" for name, value in chances.items())
    return [*lines, "", f"Chance: {chance}."]


def main(folder: Path, jobs: int) -> str:
    """The page, after doing what is missing."""
    known(folder)
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda model: pretrain(folder, model), ARMS))
        list(pool.map(lambda cell: tune(folder, cell), cells()))
    done = [seconds(folder / cell.name) for cell in cells() if scores(folder / cell.name)]
    return "\n".join(
        [
            "# Knowledge and reasoning: what fine-tuning makes of a sparse and a dense model",
            "",
            f"Command: `python -m experiments.finetuning FOLDER {jobs}`; {len(done)} cells. "
            f"{machine()}. The longest cell took {max(done):.0f} seconds.",
            "",
            (__doc__ or "").split("\n\n")[-1].replace("\n", " ").strip(),
            "",
            f"Of the training examples {SHARE:.0%} are held out, so that so many of the questions "
            "of `memory` were never trained on. "
            f"Pre-training: {STEPS} steps of {ROWS} rows of 512 bytes; fine-tuning: {TUNING} steps "
            "of 16 rows of 256 bytes at a rate of 0.002, dropout as `turnout finetune` has it for "
            "either model. One seed: the 95% bootstrap interval over "
            "questions; three: the least and the largest. `none` is the model before fine-tuning.",
            "",
            "## Closed-book facts",
            "",
            *table(folder, "facts"),
            "",
            "## Word in context",
            "",
            *table(folder, "wic"),
        ]
    )


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 2))
