"""A vocabulary learnt from training text, kept in the cache."""

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from turnout.config.tokenizers import TrainedConfig
from turnout.data.progress import Progress
from turnout.data.shards.files import (
    FORMAT,
    MANIFEST,
    Damage,
    HashedFile,
    check,
    plain,
    read_json,
    records,
    write_json,
)
from turnout.data.shards.lock import locked
from turnout.data.side import SideText
from turnout.data.tokenizers import Tokenizer
from turnout.data.tokenizers.sentence_piece import SentencePieceTokenizer
from turnout.data.tokenizers.trained import learn, sampled

_MODEL = "model.bin"


def learnt(
    config: TrainedConfig,
    training: Sequence[SideText],
    folder: Path,
    progress: Progress,
    *,
    thorough: bool = False,
) -> Tokenizer:
    """The vocabulary of the ``training`` texts, from ``folder`` where it was learnt before.

    Raises:
        UserError: see ``tokenizers.trained.learn``.
    """
    table = read_json(folder / MANIFEST)
    try:
        if table is None:
            raise Damage("no manifest")
        check(folder, records(table.get("files")), thorough=thorough)
        return SentencePieceTokenizer((folder / _MODEL).read_bytes(), config.sentinels)
    except Damage as damage:
        if table is not None:
            progress.note(f"data: the learnt vocabulary is damaged ({damage}); made anew")
    total = sum(side.num_bytes for side in training)
    progress.begin("learning the vocabulary", total)
    try:
        tokenizer = learn(sampled(_told(training, progress), total), config)
    finally:
        progress.end()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    file = HashedFile(folder / _MODEL)
    try:
        file.write(tokenizer.content)
        write_json(folder / MANIFEST, {"format": FORMAT, "files": plain([file.done()])})
    finally:
        file.close()
    return tokenizer


def learnt_together(
    config: TrainedConfig, training: Sequence[SideText], cache: Path, progress: Progress
) -> Tokenizer:
    """The vocabulary of several sources, or of one that has no folder: kept by their contents."""
    digest = hashlib.sha256(repr(config).encode())
    for side in training:
        digest.update(len(side).to_bytes(8, "little"))
        digest.update(side.digests().tobytes())
    folder = cache / "vocabularies" / digest.hexdigest()[:16]
    with locked(folder, progress):
        return learnt(config, training, folder / "learnt", progress)


def _told(training: Sequence[SideText], progress: Progress) -> Iterator[tuple[int, bytes]]:
    end = 0
    for side in training:
        for document in side:
            end += len(document)
            progress.advance(len(document))
            yield end, document
