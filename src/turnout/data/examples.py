"""Examples of two strings, from ``.jsonl`` files: one JSON object a line."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from turnout.config.errors import UserError
from turnout.config.objective import TextToTextConfig
from turnout.data.split import choose

SUFFIX = ".jsonl"


@dataclass(frozen=True)
class Example:
    """One example; ``place`` says where it was found, as ``questions.jsonl line 7``."""

    inputs: bytes
    targets: bytes
    place: str

    @property
    def text(self) -> bytes:
        """Both, one behind the other."""
        return self.inputs + self.targets


@dataclass(frozen=True)
class ExampleSides:
    """Two sides that share no inputs."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]


def read_examples(
    paths: tuple[str, ...], objective: TextToTextConfig
) -> tuple[tuple[Example, ...], int]:
    """The examples of ``.jsonl`` files, and of those in folders, in the order of their names.

    Returns:
        The examples, and how many more have empty targets, which ask for nothing and are left out.

    Raises:
        UserError: no path or no such file, a line that is no JSON object or lacks a field, or no
            example.
    """
    files = [file for path in dict.fromkeys(paths) for file in _files(Path(path))]
    if not files:
        raise UserError(
            f"data.paths: text_to_text reads {SUFFIX} files of examples, and none is given; "
            f"give a {SUFFIX} file or a folder that holds some"
        )
    found = [example for file in files for example in _parse(file, objective)]
    kept = tuple(example for example in found if example.targets)
    if not kept:
        raise UserError(
            f"data.paths: no example with targets in {', '.join(paths)}; give lines such as "
            f'{{"{objective.inputs}": "..", "{objective.targets}": ".."}}'
        )
    return kept, len(found) - len(kept)


def split_examples(examples: Sequence[Example], validation_share: float) -> ExampleSides:
    """Hold out about ``validation_share`` of the examples' bytes, by the hash of their inputs.

    Examples of equal inputs stay together, so that no held-out question was trained on; where all
    have the same inputs, equal examples do.

    Raises:
        UserError: fewer than two different examples.
    """
    keys = [example.inputs for example in examples]
    if len(set(keys)) < 2:
        keys = [example.text for example in examples]
    if len(set(keys)) < 2:
        raise UserError(
            f"data.paths: {len(examples)} example(s), all alike, cannot be split into training "
            "and validation; give at least two different ones"
        )
    pairs = list(zip(examples, keys, strict=True))
    sizes = dict.fromkeys(keys, 0)
    for example, key in pairs:
        sizes[key] += len(example.text)
    digests = b"".join(hashlib.sha256(key).digest() for key in sizes)
    chosen = choose(
        np.array([*sizes.values()]),
        np.frombuffer(digests, np.uint8).reshape(-1, 32),
        validation_share,
    )
    held_out = {key for key, held in zip(sizes, chosen.tolist(), strict=True) if held}
    return ExampleSides(
        tuple(example for example, key in pairs if key not in held_out),
        tuple(example for example, key in pairs if key in held_out),
    )


def sha256(examples: Sequence[Example]) -> str:
    """Over inputs and targets, in order."""
    digest = hashlib.sha256()
    for example in examples:
        for field in (example.inputs, example.targets):
            digest.update(len(field).to_bytes(8, "little"))
            digest.update(field)
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        inside = (p.relative_to(path) for p in path.rglob(f"*{SUFFIX}"))
        plain = sorted(p.as_posix() for p in inside if not any(x.startswith(".") for x in p.parts))
        return [path / name for name in plain]
    if not path.is_file():
        raise UserError(f"data.paths: no such file or folder {str(path)!r}")
    if path.suffix != SUFFIX:
        raise UserError(
            f"data.paths: {str(path)!r} is no {SUFFIX} file, which text_to_text reads; give one, "
            "or take another objective"
        )
    return [path]


def _parse(file: Path, objective: TextToTextConfig) -> Iterator[Example]:
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _example(line, f"{file} line {number}", objective)
    except OSError as error:
        raise UserError(f"data.paths: cannot read {str(file)!r}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"data.paths: {str(file)!r} is not UTF-8 text ({error.reason}); convert it"
        ) from error


def _example(line: str, place: str, objective: TextToTextConfig) -> Example:
    try:
        table = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"data.paths: {place} is not JSON: {error}") from error
    if not isinstance(table, dict):
        raise UserError(
            f"data.paths: {place} is no JSON object; write "
            f'{{"{objective.inputs}": "..", "{objective.targets}": ".."}}'
        )
    inputs = _string(table, objective.inputs, "objective.inputs", place)
    return Example(inputs, _string(table, objective.targets, "objective.targets", place), place)


def _string(table: dict[str, Any], name: str, option: str, place: str) -> bytes:
    value = table.get(name)
    if isinstance(value, str):
        # JSON may escape half of a surrogate pair, which is no text.
        return value.encode("utf-8", "replace")
    if name in table:
        raise UserError(
            f"data.paths: {place}: field {name!r} is a {type(value).__name__}: must be a string"
        )
    raise UserError(
        f"data.paths: {place} has no field {name!r}; it has {', '.join(table) or 'none'}: "
        f"name the right one with {option}"
    )
