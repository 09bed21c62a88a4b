"""The descriptions that ``turnout eval --task`` reads, beside the questions."""

from collections.abc import Mapping

from turnout.data.fetch.tasks.questions import MEMORY, Built


def descriptions(name: str, summary: str, built: Built) -> Mapping[str, str]:
    """TOML by file name: ``task.toml`` asks for a choice, ``words.toml`` for the words themselves.

    Where there are facts to remember, the same stands in ``memory.toml`` and
    ``memory-words.toml``.
    """
    found = {}
    for prefix, split in (("", "test"), ("memory", MEMORY)):
        if split not in built.splits:
            continue
        title = f"{name}-{prefix}" if prefix else name
        # Whichever split is asked for: what is remembered is not in validation or test.
        lines = f'validation = "{MEMORY}"\ntest = "{MEMORY}"\n'
        splits = f"\n[splits]\n{lines}" if prefix else ""
        found[f"{prefix or 'task'}.toml"] = _choices(title, summary) + splits
        words = _words(f"{title}-words", summary) + splits
        found[f"{prefix}-words.toml" if prefix else "words.toml"] = words
    return found


def _choices(name: str, summary: str) -> str:
    return (
        f'name = "{name}"\n'
        f'description = "{summary}"\n'
        'kind = "choices"\n'
        'inputs = "{inputs}"\n'
        'choices = "choices"\n'
        'answer = "answer"\n'
        'domain = "relation"\n'
    )


def _words(name: str, summary: str) -> str:
    return (
        f'name = "{name}"\n'
        f'description = "{summary}"\n'
        'kind = "generate"\n'
        'inputs = "{inputs}"\n'
        'targets = "{targets}"\n'
        'references = "references"\n'
        'metrics = ["exact_match", "f1"]\n'
        "max_tokens = 32\n"
        'domain = "relation"\n'
    )
