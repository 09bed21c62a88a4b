"""What a comparison says in words."""

import pytest

from turnout.evaluate.compare import Compared
from turnout.evaluate.metrics.measure import Measure, mean, perplexity
from turnout.evaluate.metrics.uncertainty import difference

LOW, HIGH = [0.1] * 20, [0.9] * 20


def verdict(one: Measure, other: Measure) -> str:
    return Compared("task", one, other, difference(one, other)).verdict


@pytest.mark.parametrize("turned", [False, True])
def test_more_is_better_or_less_is(turned: bool) -> None:
    """Of scores the higher wins, of perplexity the lower, in either place."""
    names = ("first", "second") if turned else ("second", "first")
    scores = [mean("f1", LOW), mean("f1", HIGH)]
    nats = [perplexity(LOW, [1] * 20), perplexity(HIGH, [1] * 20)]
    better = verdict(*(scores[::-1] if turned else scores))
    assert better == f"task, f1: the {names[0]} is better (p = 0.0001)"
    worse = verdict(*(nats[::-1] if turned else nats))
    assert worse == f"task, perplexity: the {names[1]} is better (p = 0.0001)"


def test_what_chance_may_do() -> None:
    """Three wins to one: p = 2 (1 + 4) / 16 = 0.625."""
    one, other = [0.0, 0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0, 1.0]
    said = verdict(mean("accuracy", one, binary=True), mean("accuracy", other, binary=True))
    assert said == (
        "task, accuracy: no difference that chance would not make (p = 0.62, not below 0.05)"
    )
