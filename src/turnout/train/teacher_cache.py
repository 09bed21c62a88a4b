"""A teacher's most probable tokens for every row of a run, in files that are mapped.

Axes: R rows, N targets of all rows, K tokens, B batch.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import final

import numpy as np
import torch
from jaxtyping import Float32, Int32, Int64

from turnout.checkpoint import folders
from turnout.checkpoint.index import INDEX
from turnout.config import io
from turnout.config.cache import cache_folder
from turnout.config.errors import UserError
from turnout.config.train import RunConfig
from turnout.convert.conversion import arriving
from turnout.convert.folder import CONFIG, is_foreign
from turnout.convert.hub import located
from turnout.data.batch import Batch
from turnout.data.pipeline import Data
from turnout.data.progress import Progress, Silent
from turnout.data.shards.lock import locked
from turnout.models.base import Model
from turnout.models.head import chunks
from turnout.objectives.soft_targets import SoftTargets, Teacher, Top, at_targets

PLACE, SAID = "teachers", "said"  # in the cache


@dataclass(frozen=True)
class Said:
    """What a teacher said of all rows, in the order of their keys.

    Attributes:
        keys: of the rows (``Batch.keys``), ascending.
        starts: the first target of each row among ``N``, and N.
        ids, log_p: its K most probable tokens for each target, best first, and their logarithms.
    """

    keys: Int64[np.ndarray, " R"]
    starts: Int64[np.ndarray, " R1"]
    ids: Int32[np.ndarray, "N K"]
    log_p: Float32[np.ndarray, "N K"]

    @staticmethod
    def open(folder: Path) -> "Said":
        """Maps what ``cached`` wrote."""
        parts = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in PARTS}
        return Said(**parts)


PARTS = ("keys", "starts", "ids", "log_p")


@final
class Cached(Teacher):
    """Reads what a teacher said before."""

    def __init__(self, said: Said) -> None:
        self._said = said

    def targets(self, batch: Batch) -> SoftTargets:
        """Raises UserError for a row that was not among those of the run."""
        said, keys = self._said, batch.keys.numpy()
        places = np.searchsorted(said.keys, keys)
        known = said.keys[np.minimum(places, len(said.keys) - 1)] == keys
        if not known.all():
            raise UserError(
                "distillation.top: a row is not in the cache of the teacher, as after a rollback "
                "beyond the end of the run; set distillation.top = 0"
            )
        spans = [np.arange(said.starts[place], said.starts[place + 1]) for place in places]
        every = np.concatenate(spans)
        assert len(every) == int(batch.target_mask.sum())
        return Top(torch.from_numpy(said.ids[every]), torch.from_numpy(said.log_p[every]))


def cached(
    config: RunConfig,
    data: Data,
    dtype: torch.dtype,
    teacher: Callable[[], Model],
    progress: Progress | None = None,
) -> Said:
    """What the teacher says of every row of training and validation that it is asked about; asked
    once, by one process of several, then read.

    Args:
        dtype: that the teacher computes in.
        teacher: loads it; not called where the cache has what is asked for.
        progress: is told of the bytes that are written; nobody by default.
    """
    told = progress or Silent()
    folder = cache_folder(config.data.cache) / PLACE / _digest(config, data, dtype)
    with locked(folder, told):
        if not (folder / SAID).is_dir():
            with arriving(folder / SAID) as place:
                _write(place, config, data, teacher().eval(), told)
    return Said.open(folder / SAID)


def _digest(config: RunConfig, data: Data, dtype: torch.dtype) -> str:
    """Of all that decides what is said: the teacher's files, the text and the order of the rows."""
    asked, train, moe = config.distillation, config.train, config.model.moe
    assert asked is not None
    lengths = {name: value for name, value in vars(config.model).items() if "length" in name}
    facts = {
        "text": data.summary.sha256,
        "tokenizer": str(data.tokenizer.fingerprint),
        "objective": io.to_dict(config.objective),
        "data": io.to_dict(config.data),
        "rows": [train.seed, train.steps, train.batch_rows, train.eval_rows],
        "lengths": lengths,
        "group": 1 if moe is None else moe.group.rows,
        "top": asked.top,
        "until": asked.until,
        "dtype": str(dtype),
        "files": _files(located(asked.teacher)),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _files(folder: Path) -> list[str]:
    """SHA-256 of what holds the weights; a run's index names that of every shard."""
    if is_foreign(folder):
        found = sorted([folder / CONFIG, *folder.glob("*.safetensors")])
    else:
        found = [folders.latest(folder) / INDEX]
    digests = []
    for path in found:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digests


def _batches(config: RunConfig, data: Data) -> Iterator[Batch]:
    """Those that the teacher takes part in."""
    asked = config.distillation
    until = 1.0 if asked is None else asked.until
    steps = (data.micro_batches(step) for step in range(math.ceil(until * config.train.steps)))
    return chain(chain.from_iterable(steps), data.validation())


def _write(place: Path, config: RunConfig, data: Data, teacher: Model, progress: Progress) -> None:
    asked = config.distillation
    assert asked is not None
    keys = np.concatenate([batch.keys.numpy() for batch in _batches(config, data)])
    counts = np.concatenate(
        [batch.target_mask.sum(1).numpy() for batch in _batches(config, data)]
    ).astype(np.int64)
    order = np.argsort(keys, kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts[order])]).astype(np.int64)
    np.save(place / "keys.npy", keys[order])
    np.save(place / "starts.npy", starts)
    shape = (int(starts[-1]), asked.top)
    ids = np.lib.format.open_memmap(place / "ids.npy", "w+", np.int32, shape)
    log_p = np.lib.format.open_memmap(place / "log_p.npy", "w+", np.float32, shape)
    first = np.empty_like(order)
    first[order] = starts[:-1]  # of each row in the order of the batches
    row = 0
    progress.begin("asking the teacher", ids.nbytes + log_p.nbytes)
    for batch in _batches(config, data):
        rows = len(batch.keys)
        spans = zip(first[row : row + rows], counts[row : row + rows], strict=True)
        every = np.concatenate([np.arange(start, start + count) for start, count in spans])
        ids[every], log_p[every] = _most(teacher, batch, asked.top)
        progress.advance(len(every) * asked.top * (ids.itemsize + log_p.itemsize))
        row += rows
    progress.end()
    ids.flush()
    log_p.flush()


@torch.no_grad()
def _most(
    teacher: Model, batch: Batch, top: int
) -> tuple[Int32[np.ndarray, "T K"], Float32[np.ndarray, "T K"]]:
    output = teacher(batch, observed=False)
    hidden = at_targets(output.hidden, batch)
    log_p, ids = [torch.empty(0, top)], [torch.empty(0, top, dtype=torch.int64)]
    for part in chunks(hidden.shape[0], output.head.weight.shape[0]):
        best = output.head.logits(hidden[part]).log_softmax(-1).topk(top)
        log_p.append(best.values)
        ids.append(best.indices)
    return torch.cat(ids).int().numpy(), torch.cat(log_p).numpy()
