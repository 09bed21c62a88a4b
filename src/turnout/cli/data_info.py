"""``turnout data info``: what a text is, how it is split, and where the cache has it."""

from collections.abc import Sequence

from turnout.cli.data_build import asked


def run(arguments: Sequence[str]) -> int:
    """Say what the cache has of a text, every file checked; what it lacks is built."""
    data = asked("turnout data info", "What a text is; every cached file is checked.", arguments)
    from turnout.cli.build_progress import build_progress
    from turnout.data.info import corpus_lines, open_data

    for line in corpus_lines(open_data(data, build_progress(), thorough=True)):
        print(line)
    return 0
