"""Sparse against dense in many languages: how much sooner is each learnt?

    turnout data fetch multilingual
    python -m experiments.languages runs/languages > docs/results/languages.md

`switch_tiny` and its dense twin on the same text of twelve languages, a source a language, read at
rates proportional to n^0.3 (a temperature of 1 / 0.3), as bytes. Every language is evaluated by
itself. The speed-up of a language is what the dense model spends to its final loss over what the
sparse one spends to the same loss, in steps. One seed, stated before.
"""

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import IO

import torch

from experiments.cells import machine
from turnout.compare.by_source import BySource, by_source, draw
from turnout.config import io
from turnout.config.cache import cache_folder
from turnout.config.mixture import MixtureConfig, SourceConfig
from turnout.config.presets import dense_twin
from turnout.config.presets import run as preset
from turnout.config.train import RunConfig
from turnout.convert.api import load
from turnout.data import pipeline

PRESET, STEPS, ROWS, EVERY = "switch_tiny", 600, 12, 40
CORPUS = cache_folder() / "corpora" / "multilingual" / "text"
LANGUAGES = ("cs", "de", "el", "en", "es", "fi", "fr", "it", "ja", "nl", "pl", "ru")
MOST = 3_000_000  # bytes of a language
ASKED = 32  # rows of a language in every evaluation


def texts(folder: Path) -> dict[str, Path]:
    """A file for each language, of the corpus's documents in their order."""
    target = folder / "text"
    paths = {language: target / f"{language}.jsonl" for language in LANGUAGES}
    if all(path.is_file() for path in paths.values()):
        return paths
    target.mkdir(parents=True, exist_ok=True)
    sizes: dict[str, int] = defaultdict(int)
    files: dict[str, IO[str]] = {}
    for source in sorted(CORPUS.glob("*.jsonl")):
        for line in source.open(encoding="utf-8"):
            document = json.loads(line)
            language = str(document["language"])
            if language not in paths or sizes[language] > MOST:
                continue
            sizes[language] += len(document["text"].encode())
            if language not in files:
                files[language] = (target / f".{language}.part").open("w", encoding="utf-8")
            files[language].write(line)
    for language, file in files.items():
        file.close()
        Path(file.name).rename(paths[language])
    missing = sorted(set(LANGUAGES) - files.keys())
    if missing:
        raise SystemExit(f"{CORPUS} has no {', '.join(missing)}: turnout data fetch multilingual")
    return paths


def base(paths: dict[str, Path]) -> RunConfig:
    """The sparse run."""
    config = preset(PRESET, "causal")
    sources = tuple(SourceConfig(name, (str(path),)) for name, path in paths.items())
    mixture = MixtureConfig(sources, temperature=1 / 0.3)
    train = replace(
        config.train,
        steps=STEPS,
        batch_rows=ROWS,
        eval_every=EVERY,
        eval_rows=ASKED * len(paths),
        save_every=STEPS,
    )
    return replace(config, data=replace(config.data, mixture=mixture), train=train)


def trained(folder: Path, name: str, config: RunConfig) -> Path:
    """A finished run, trained unless it is there."""
    place = folder / name
    if not (folder / f"{name}.done").is_file():
        path = folder / f"{name}.toml"
        path.write_text(io.dump_toml(config), encoding="utf-8")
        print(f"{time.strftime('%H:%M:%S')} {name}", file=sys.stderr, flush=True)
        newest = ["--resume", str(place)] if (place / "checkpoints").is_dir() else []
        begin = ["--config", str(path), "--out", str(place), "--train.threads", "1"]
        with (folder / f"{name}.txt").open("a") as output:
            subprocess.run(
                [sys.executable, "-m", "turnout", "train", *(newest or [PRESET, *begin])],
                stdout=output,
                stderr=output,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                check=True,
            )
        (folder / f"{name}.done").touch()
    return place


@torch.no_grad()
def use(run: Path, config: RunConfig) -> list[str]:
    """Which share of a language's tokens each expert serves, a table for every sparse layer."""
    model = load(run)
    loads: dict[str, dict[int, torch.Tensor]] = defaultdict(dict)
    for batch in pipeline.build(config).validation():
        assert batch.labels is not None
        label = int(batch.labels[0])
        for stats in model(batch).layers:
            found = loads[stats.name]
            counts = stats.router.assigned.sum(0)
            found[label] = found.get(label, torch.zeros_like(counts)) + counts
    lines: list[str] = []
    for layer, by_label in loads.items():
        experts = len(next(iter(by_label.values())))
        lines += [
            f"### {layer}",
            "",
            f"| language | {' | '.join(f'expert {expert}' for expert in range(experts))} |",
            "|---" * (experts + 1) + "|",
        ]
        for label, counts in sorted(by_label.items()):
            shares = (counts / counts.sum()).tolist()
            row = " | ".join(f"{share:.1%}" for share in shares)
            lines.append(f"| {LANGUAGES[label]} | {row} |")
        lines.append("")
    return lines


def table(found: BySource) -> list[str]:
    """A row a language."""
    lines = ["| language | dense | sparse | speed-up |", "|---|---|---|---|"]
    for name, ratio in sorted(found.speed_ups.items(), key=lambda item: -(item[1].value or 0)):
        losses = f"{found.dense[name]:.4f} | {found.sparse[name]:.4f}"
        lines.append(f"| {name} | {losses} | {ratio.text()} |")
    return lines


def main(folder: Path, jobs: int, picture: Path) -> str:
    """The page, after training what is missing."""
    paths = texts(folder)
    sparse, dense = base(paths), dense_twin(base(paths))
    with ThreadPoolExecutor(jobs) as pool:
        runs = list(
            pool.map(lambda each: trained(folder, *each), [("sparse", sparse), ("dense", dense)])
        )
    found = by_source(runs[1], runs[0])
    draw(found, runs[0]).replace(picture)
    return "\n".join(
        [
            "# Sparse against dense, language by language",
            "",
            f"Command: `python -m experiments.languages FOLDER {jobs}`; {STEPS} steps of {ROWS} "
            f"rows of 512 bytes. {machine()}.",
            "",
            (__doc__ or "").split("\n\n")[-1].replace("\n", " ").strip(),
            "",
            f"{found.line[0].upper()}{found.line[1:]}. Losses are nats a byte, of the last "
            f"evaluation. Every evaluation reads {ASKED} rows of 512 bytes of a language. Switch "
            "(2101.03961, section 4.3): mean 5, at least 4 for 91% of 101 languages, after a "
            "million steps.",
            "",
            f"![histogram]({picture.name})",
            "",
            *table(found),
            "",
            "## Which experts a language uses",
            "",
            *use(runs[0], sparse),
        ]
    )


if __name__ == "__main__":
    target = Path("docs/results/languages.png")
    print(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 2, target))
