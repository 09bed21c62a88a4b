"""Tasks of ``turnout eval``: asked, printed, compared and written."""

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from turnout.cli.arguments import file_target
from turnout.cli.eval_progress import telling
from turnout.config.errors import UserError
from turnout.evaluate import compare, report
from turnout.evaluate.library import built_in, find_all
from turnout.evaluate.run import Options, Prepared, Result, evaluate, examples, prepare
from turnout.evaluate.subject import Subject, check_subject, open_subject


def listed() -> str:
    """The tasks that come along, a line each."""
    tasks = built_in()
    width = max(map(len, tasks))
    return "\n".join(
        f"{name.ljust(width)}  {task.kind:<8}  {task.description}" for name, task in tasks.items()
    )


def evaluate_tasks(options: Namespace) -> int:
    """Ask one run, or two, all tasks; print a table, and write what is asked for.

    Raises:
        UserError: a task, a run or an option that cannot be.
    """
    targets = {
        name: file_target(f"--{name}", given)
        for name in ("json", "examples")
        if (given := getattr(options, name)) is not None
    }
    if len({path.resolve() for path in targets.values()}) < len(targets):
        raise UserError(f"--examples {options.examples}: --json writes there; give another file")
    asked = _asked(options)
    tasks = [prepare(found, asked) for found in find_all(options.task, _data(options.task_data))]
    form = options.form or "auto"
    runs = options.compare or [options.run]
    for run in runs:
        check_subject(run)
    found: list[list[Result]] = []
    tables: list[dict[str, Any]] = []
    for run in runs:
        subject = open_subject(run, form, options.label)
        results = [_evaluated(task, subject) for task in tasks]
        found.append(results)
        print(f"{run}, {asked.shots} shots, {asked.split}, seed {asked.seed}")
        rows = [row for result in results for row in report.result_lines(result, asked)]
        print(report.aligned([report.HEAD, *rows]))
        _tell_cut(results)
        print()
        tables.append(
            {"run": run, "form": form, "tasks": [report.result_data(r, asked) for r in results]}
        )
    comparison = _compare(found[0], found[1], asked.seed) if len(found) > 1 else []
    if "json" in targets:
        table: dict[str, Any] = {"split": asked.split, "shots": asked.shots, "seed": asked.seed}
        table |= {"runs": tables} | ({"comparison": comparison} if len(found) > 1 else {})
        targets["json"].write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    if "examples" in targets:
        _write_examples(targets["examples"], runs, found)
    return 0


def _asked(options: Namespace) -> Options:
    given = {name: getattr(options, name) for name in ("split", "shots", "seed", "limit")}
    return Options(**{name: value for name, value in given.items() if value is not None})


def _data(given: Sequence[str] | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for each in given or ():
        name, equals, path = each.partition("=")
        if not (name and equals and path):
            raise UserError(f"--task-data {each}: must be NAME=PATH")
        if name in found:
            raise UserError(f"--task-data {name}: given twice")
        found[name] = path
    return found


def _evaluated(task: Prepared, subject: Subject) -> Result:
    with telling(task.task.name) as tell:
        return evaluate(task, subject, tell)


def _tell_cut(results: Sequence[Result]) -> None:
    for result in results:
        if result.cut:
            print(
                f"{result.task.name}: {result.cut:,} of {len(result.scored):,} examples were too "
                "long and lost the left of their context"
            )


def _compare(first: Sequence[Result], second: Sequence[Result], seed: int) -> list[dict[str, Any]]:
    found = [compare.compared(*pair, seed) for pair in zip(first, second, strict=True)]
    print(report.aligned([compare.HEAD, *(each.line for task in found for each in task)]))
    print()
    for task in found:
        print(task[0].verdict)
    return [
        {"task": task[0].task, "measures": {each.first.name: each.data for each in task}}
        for task in found
    ]


def _write_examples(path: Path, runs: Sequence[str], found: Sequence[Sequence[Result]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for run, results in zip(runs, found, strict=True):
            for result in results:
                for each in examples(result):
                    file.write(json.dumps({"run": run} | each, ensure_ascii=False) + "\n")
