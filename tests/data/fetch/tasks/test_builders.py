"""What holds for every task: valid choices, disjoint splits, the same by the same seed."""

import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from tests.data.fetch.tasks.small import sources

from turnout.data.fetch.tasks.catalogue import TASK_SETS, Task
from turnout.data.fetch.tasks.questions import Built

ALL = [task for tasks in TASK_SETS.values() for task in tasks.tasks]
SPLIT = ("train", "validation", "test")


@pytest.fixture(scope="module", params=ALL, ids=lambda task: task.name)
def task(request: pytest.FixtureRequest) -> Task:
    return request.param


@pytest.fixture(scope="module")
def built(task: Task) -> Built:
    return task.build(sources(*task.sources), 0)


def test_every_split_asks_something(built: Built) -> None:
    assert all(built.splits[split] for split in SPLIT)


def test_choices_hold_the_right_one_once(built: Built) -> None:
    for some in built.splits.values():
        for one in some:
            assert one.choices[one.answer] == one.targets
            assert len({choice.casefold() for choice in one.choices}) == len(one.choices)
            assert 2 <= len(one.choices) <= 16
            assert one.inputs.strip()
            assert one.targets.strip()
            assert "\n" not in one.inputs


def test_no_entity_and_no_question_is_in_two_splits(built: Built) -> None:
    for key in ("entity", "inputs"):
        sets = [{getattr(one, key).casefold() for one in built.splits[split]} for split in SPLIT]
        assert not (sets[0] & sets[1] | sets[0] & sets[2] | sets[1] & sets[2])


def test_the_same_seed_gives_the_same_and_another_does_not(task: Task, built: Built) -> None:
    again = task.build(sources(*task.sources), 0)
    assert again.splits == built.splits
    assert task.build(sources(*task.sources), 1).splits["train"] != built.splits["train"]


def test_another_process_with_another_hash_of_strings_makes_the_same(
    task: Task, built: Built
) -> None:
    """Sets of strings come in another order there: none may reach the questions."""
    code = (
        "import sys, hashlib; from tests.data.fetch.tasks.small import sources\n"
        "from tests.data.fetch.tasks.test_builders import ALL\n"
        "task = next(task for task in ALL if task.name == sys.argv[1])\n"
        "lines = (one.line for some in task.build(sources(*task.sources), 0).splits.values() "
        "for one in some)\n"
        "print(hashlib.sha256(''.join(lines).encode()).hexdigest())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, task.name],
        cwd=Path(__file__).parents[4],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = "".join(one.line for some in built.splits.values() for one in some)
    assert done.stdout.strip() == hashlib.sha256(lines.encode()).hexdigest()


def test_right_answers_stand_anywhere(built: Built) -> None:
    """Where choices are in a seeded order; where there are two, both are right as often."""
    train = built.splits["train"]
    places = Counter(one.answer for one in train if len(one.choices) == len(train[0].choices))
    expected = sum(places.values()) / len(train[0].choices)
    assert all(abs(count - expected) < 6 * expected**0.5 for count in places.values())
    assert len(places) == len(train[0].choices)


@pytest.mark.parametrize("name", ["wic", "entailment", "boolean"])
def test_each_answer_is_half_of_every_split_and_relation(name: str) -> None:
    task = next(task for task in ALL if task.name == name)
    built = task.build(sources(*task.sources), 0)
    for split in SPLIT:
        counts = Counter((one.relation, one.targets) for one in built.splits[split])
        for relation, answer in list(counts):
            (other,) = set(built.splits[split][0].choices) - {answer}
            assert counts[relation, answer] == counts[relation, other]


@pytest.mark.parametrize("task_", ALL, ids=lambda task: task.name)
def test_what_a_task_needs_is_among_what_it_is_made_of(task_: Task) -> None:
    (tasks,) = (tasks for tasks in TASK_SETS.values() if task_ in tasks.tasks)
    known = {source.name for source in tasks.corpus.sources}
    assert set(task_.needed) <= set(task_.sources) <= known
