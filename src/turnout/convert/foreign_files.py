"""A Hugging Face folder, written a tensor at a time."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from turnout.checkpoint.stream import Planned, write_stream
from turnout.checkpoint.write import replace_file
from turnout.convert.folder import CONFIG, INDEX, SINGLE

METADATA = {"format": "pt"}


def write_foreign(
    folder: Path,
    config: Mapping[str, Any],
    plans: Sequence[Sequence[Planned]],
    tensors: Iterator[Tensor],
) -> None:
    """Shards, their index where there are several, and the configuration last."""
    folder.mkdir(parents=True, exist_ok=True)
    placed: dict[str, str] = {}
    for number, plan in enumerate(plans, start=1):
        file = SINGLE
        if len(plans) > 1:
            file = f"model-{number:05d}-of-{len(plans):05d}.safetensors"
        some = (next(tensors) for _ in range(len(plan)))
        write_stream(folder / file, plan, some, METADATA)
        placed.update({each.name: file for each in plan})
    if len(plans) > 1:
        total = sum(each.size for plan in plans for each in plan)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(placed.items()))}
        replace_file(folder / INDEX, json.dumps(index, indent=2).encode())
    replace_file(folder / CONFIG, (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())
