"""Times how ranks leave, or go on together, when something befalls one of them.

    python benchmarks/trouble.py > docs/results/trouble.md

A small model is trained under torchrun with the experts shared out over two ranks; the last rank
is harmed at a step, or within a save.
"""

import argparse
import errno
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from turnout.checkpoint import saver
from turnout.cli.main import main as turnout
from turnout.data.pipeline import Data
from turnout.parallel.ranks import ManyRanks
from turnout.train import saving, trainer

ROOT = Path(__file__).resolve().parents[1]
MOMENT = 5  # steps done when it happens; a save every four
OPTIONS = (
    *("switch_tiny", "--data", str(ROOT / "docs" / "*.md"), "--train.dtype", "float32"),
    *("--train.steps", "12", "--train.batch-rows", "8", "--train.save-every", "4"),
    *("--train.eval-every", "12", "--train.eval-rows", "8", "--parallel.expert", "2"),
    *("--model.d-model", "32", "--model.feed-forward.d-ff", "64"),
)


@dataclass(frozen=True)
class Harm:
    """Done to one rank, which notes when."""

    folder: Path

    def now(self) -> None:
        """It begins."""
        (self.folder / "harm").write_text(repr(time.time()))

    def raises(self, error: Exception) -> NoReturn:
        """As a defect would."""
        self.now()
        raise error

    def kills(self, number: signal.Signals) -> None:
        """This process gets a signal."""
        self.now()
        os.kill(os.getpid(), number)


def at_step(act: Callable[[Any], None]) -> None:
    """Do something with the state before a step."""
    original = trainer.optimiser_step

    def step(state: Any, *rest: Any) -> Any:
        if state.step == MOMENT:
            act(state)
        return original(state, *rest)

    trainer.optimiser_step = step


def second(owner: Any, name: str, act: Callable[[], Any]) -> None:
    """Do something in the place of a function's second call."""
    original, calls = getattr(owner, name), []

    def instead(*args: Any, **named: Any) -> Any:
        calls.append(name)
        return act() if len(calls) == 2 else original(*args, **named)

    setattr(owner, name, instead)


def forward_fails(harm: Harm) -> None:
    """While the other ranks wait in a collective."""

    def plant(state: Any) -> None:
        block = state.model.stacks()[-1].blocks[-1]
        block.register_forward_pre_hook(lambda *_: harm.raises(RuntimeError("a planted defect")))

    at_step(plant)


def data_fail(harm: Harm) -> None:
    """Between two steps."""
    original = Data.micro_batches

    def read(data: Data, step: int) -> Any:
        if step == MOMENT:
            harm.raises(OSError(errno.EIO, "Input/output error", "a disk"))
        return original(data, step)

    Data.micro_batches = read  # type: ignore[method-assign]


def save_fails(harm: Harm) -> None:
    """Before it says what it holds: the others wait for a message."""
    second(saving, "export", lambda: harm.raises(RuntimeError("a planted defect")))


def disk_full(harm: Harm) -> None:
    """A checkpoint's shard does not fit."""
    full = OSError(errno.ENOSPC, "No space left on device", "a disk")
    second(saver, "write_shard", lambda: harm.raises(full))


def not_a_number(harm: Harm) -> None:
    """In a gradient, before its norm is taken."""
    original, calls = ManyRanks.settle, []

    def settle(ranks: ManyRanks, model: Any) -> None:
        original(ranks, model)
        calls.append(model)
        if len(calls) == MOMENT + 1:
            harm.now()
            grads = (weight.grad for weight in ranks.weights(model).values())
            next(grad for grad in grads if grad is not None).fill_(torch.nan)

    ManyRanks.settle = settle  # type: ignore[method-assign]


def asked_to_stop(harm: Harm) -> None:
    """As Slurm or a user asks."""
    at_step(lambda state: harm.kills(signal.SIGTERM))


def killed(harm: Harm) -> None:
    """While the other ranks compute, and then wait in a collective."""
    at_step(lambda state: harm.kills(signal.SIGKILL))


def killed_in_a_save(harm: Harm) -> None:
    """While the other ranks wait for a message."""
    second(saver, "write_shard", lambda: harm.kills(signal.SIGKILL))


BEHIND = ("--train.save-in-background", "true")
EVENTS: Mapping[str, tuple[Callable[[Harm], None], tuple[str, ...]]] = {
    "an exception in the forward pass": (forward_fails, ()),
    "an exception while the others wait in a save": (save_fails, ()),
    "text that cannot be read": (data_fail, ()),
    "a full disk": (disk_full, ()),
    "a full disk, saving in the background": (disk_full, BEHIND),
    "NaN in a gradient": (not_a_number, ()),
    "SIGTERM": (asked_to_stop, ()),
    "SIGKILL in a step": (killed, ()),
    "SIGKILL in a save": (killed_in_a_save, ()),
    "SIGKILL in a save in the background": (killed_in_a_save, BEHIND),
}
GOES_ON = "NaN in a gradient"


def as_rank(event: str, victim: int, folder: Path) -> int:
    """What torchrun starts: the command, with harm planted."""
    rank, original = int(os.environ["RANK"]), trainer.optimiser_step

    def noted(state: Any, *rest: Any) -> Any:
        report = original(state, *rest)
        with (folder / "steps").open("a") as file:
            file.write(json.dumps([rank, report.step, time.time()]) + "\n")
        return report

    trainer.optimiser_step = noted
    plant, options = EVENTS[event]
    if rank == victim:
        plant(Harm(folder))
    return turnout(["train", *OPTIONS, *options, "--out", str(folder / "run")])


@dataclass(frozen=True)
class Outcome:
    """How a run fared: seconds from the harm on, what it said, and its exit code."""

    seconds: float
    said: str
    code: int


def befall(event: str, ranks: int, victim: int, folder: Path) -> Outcome:
    """Start a run, and harm one rank of it."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(ranks), str(Path(__file__)), "--as-rank", event]
    command += ["--victim", str(victim), "--folder", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    end, begin = time.time(), float((folder / "harm").read_text())
    if event == GOES_ON:
        lines = map(json.loads, (folder / "steps").read_text().splitlines())
        end = max(when for _, step, when in lines if step == MOMENT + 2)
    return Outcome(end - begin, done.stdout + done.stderr, done.returncode)


def named(said: str, victim: int) -> str:
    """The line of ours that names the rank, or torchrun's report of it."""
    lines = [line.strip() for line in said.splitlines()]
    ours = [line for line in lines if line.startswith(("error:", "skip", "interrupt", "step"))]
    found = [line for line in ours if f"rank {victim}" in line]
    theirs = [line for line in lines if f"local_rank: {victim} " in line and "exitcode" in line]
    others = [line for line in lines if " leaves: " in line and f"rank {victim} says" in line]
    return f"`{(found or others or theirs or ['nothing'])[0]}`"


def main() -> None:
    """Prints the page as Markdown; as a rank, trains."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--events", nargs="+", choices=EVENTS, default=list(EVENTS))
    parser.add_argument("--as-rank", choices=EVENTS, help=argparse.SUPPRESS)
    parser.add_argument("--victim", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.as_rank:
        raise SystemExit(as_rank(options.as_rank, options.victim, options.folder))
    print(
        "# When something befalls one rank\n\nA small model is trained under torchrun, and "
        "the last rank is harmed at a step, or within a save. Seconds "
        f"from the harm until torchrun had ended and with it all processes, or, after NaN, until "
        f"the last rank had done the next step; median and largest of {options.repeats}.\n\n"
        f"Command: `python benchmarks/trouble.py --repeats {options.repeats} --ranks "
        f"{' '.join(map(str, options.ranks))}`; torch {torch.__version__}, {platform.machine()}, "
        f"{os.cpu_count()} cores; switch_tiny of width 32, experts over two ranks.\n\n"
        "| event | rank | seconds, median | largest | the line |\n" + "|---" * 5 + "|"
    )
    for size in options.ranks:
        for event in options.events:
            found = []
            for _ in range(options.repeats):
                with tempfile.TemporaryDirectory() as folder:
                    found.append(befall(event, size, size - 1, Path(folder)))
            seconds = [one.seconds for one in found]
            print(
                f"| {event} | {size - 1} of {size} | {statistics.median(seconds):.1f} | "
                f"{max(seconds):.1f} | {named(found[-1].said, size - 1)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
