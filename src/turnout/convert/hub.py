"""Models by their names on the Hugging Face hub: ``org/name``, or ``org/name@revision``.

What is fetched is the configuration, the tokenizer's files and the safetensors that the index
names; no pickle and no code. The hub's own library does it, into its own cache.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from turnout.config.errors import UserError
from turnout.convert.folder import COMPANIONS, CONFIG, INDEX, SINGLE, weight_files

NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")
SHARD = re.compile(r"[\w.-]+\.safetensors")


def located(name: str | Path) -> Path:
    """The folder of that path or, where nothing has that path and it may be a name on the hub, the
    one in the hub's cache, fetched where it is not there yet.

    Raises:
        UserError: one line: the library is not installed, there is no such model or no permission,
            the hub cannot be reached, or what it has is not safetensors.
    """
    folder, asked = Path(name), NAME.fullmatch(str(name))
    if folder.exists() or asked is None:
        return folder
    repository, revision = asked.groups()
    found = _fetched(repository, revision, (CONFIG, INDEX, *COMPANIONS))
    if not (found / CONFIG).exists():
        raise UserError(f"{name}: has no {CONFIG} on the hub: it is no model of transformers")
    wanted, _ = weight_files(found)
    for shard in wanted:
        if not SHARD.fullmatch(shard):
            raise UserError(f"{name}: {INDEX} names {shard!r}: must be NAME.safetensors")
    # By its commit, so that all files are of one state of the repository.
    found = _fetched(repository, found.name, wanted)
    if not any((found / shard).exists() for shard in wanted):
        raise UserError(
            f"{name}: has no {SINGLE} or {INDEX} on the hub; weights in other files may run code "
            "when they are opened, and are not fetched: ask its author for safetensors"
        )
    return found


def _fetched(repository: str, revision: str | None, files: Sequence[str]) -> Path:
    """The snapshot that holds those of the files which the repository has."""
    library = _library(repository)
    errors = library.errors
    try:
        patterns = list(files)
        return Path(
            library.snapshot_download(repository, revision=revision, allow_patterns=patterns)
        )
    except errors.GatedRepoError:
        reason = (
            f"it is gated on the hub: ask for access at https://huggingface.co/{repository}, "
            "then `hf auth login`"
        )
    except errors.RepositoryNotFoundError:
        reason = "the hub has no such model, or it is private: then `hf auth login`"
    except errors.RevisionNotFoundError:
        reason = f"the hub's model has no branch, tag or commit {revision}"
    except Exception as error:  # the library raises its own, the network's and others'
        first = (str(error) or type(error).__name__).splitlines()[0][:200]
        reason = f"the hub's model of that name cannot be fetched: {first}"
    raise UserError(f"{repository}: no such folder, and {reason}")


def _library(repository: str) -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError:
        raise UserError(
            f"{repository}: no such folder; models are fetched from the Hugging Face hub by "
            "huggingface_hub, which is not installed: pip install 'turnout[hub]'"
        ) from None
    return huggingface_hub
