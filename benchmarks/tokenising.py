"""Times the steps that text goes through before a run: reading, tokenising, comparing the sides.

    python benchmarks/tokenising.py [PATH ..]

The default is the standard library, copied until it makes 30 MB; each copy is marked, so that none
is left out as a copy. Every step runs in a cache of its own, with as many threads as there are
processors; the best of three.
"""

import os
import platform
import sys
import tempfile
import time
from pathlib import Path

from turnout.config.tokenizers import BytesConfig, TokenizerConfig, TrainedConfig
from turnout.data.progress import Progress
from turnout.data.shards.corpus import Request, open_corpus
from turnout.data.sources import read

REPEATS = 3
BYTES = 30_000_000


class Timed(Progress):
    """Seconds of each piece of work, and processor seconds of all threads."""

    def __init__(self) -> None:
        self.seconds: dict[str, tuple[float, float]] = {}
        self._what, self._since = "", (0.0, 0.0)

    def begin(self, what: str, total: int) -> None:
        """See ``Progress.begin``."""
        self._what, self._since = what, (time.perf_counter(), time.process_time())

    def advance(self, count: int) -> None:
        """Nothing happens."""

    def end(self) -> None:
        """See ``Progress.end``."""
        wall, busy = self._since
        self.seconds[self._what] = time.perf_counter() - wall, time.process_time() - busy

    def note(self, line: str) -> None:
        """Nothing happens."""


def copies(folder: Path) -> str:
    """A folder with the standard library again and again."""
    written = number = 0
    while written < BYTES:
        for place, document in enumerate(read()):
            text = f"# copy {number}\n".encode() + document.text
            (folder / f"{number}-{place:04}.py").write_bytes(text)
            written += len(text)
        number += 1
    return str(folder)


def measure(
    paths: tuple[str, ...], tokenizer: TokenizerConfig
) -> tuple[int, dict[str, tuple[float, float]]]:
    """Bytes of text, and the best seconds of each step."""
    best: dict[str, tuple[float, float]] = {}
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory() as cache:
            timed = Timed()
            corpus = open_corpus(Request(paths, "text", 0.05, Path(cache)), tokenizer, timed)
            for what, seconds in timed.seconds.items():
                best[what] = min(seconds, best.get(what, seconds))
    return corpus.text.num_bytes, best


def main() -> None:
    """Prints the table as Markdown."""
    with tempfile.TemporaryDirectory() as folder:
        paths = tuple(sys.argv[1:]) or (copies(Path(folder)),)
        print(
            f"{os.cpu_count()} processors, {platform.machine()}, Python "
            f"{platform.python_version()}; best of {REPEATS}\n"
        )
        print("| vocabulary | step | MB/s | MB a processor second |\n|---|---|---|---|")
        for name, config in (
            ("bytes", BytesConfig()),
            ("SentencePiece, bpe, 8,192 ids", TrainedConfig(8192)),
        ):
            size, seconds = measure(paths, config)
            for what, (wall, busy) in seconds.items():
                rates = f"{size / wall / 1e6:.1f} | {size / busy / 1e6:.1f}"
                print(f"| {name} | {what} | {rates} |", flush=True)


if __name__ == "__main__":
    main()
