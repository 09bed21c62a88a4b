"""The options of ``turnout eval`` that say how tasks are asked. Imports no torch."""

from turnout.cli.arguments import Parser

# Without --task they would have no effect.
TASK_OPTIONS = (
    *("task_data", "shots", "seed", "limit", "split", "json", "examples", "form", "label"),
)
SPLITS = ("validation", "test", "train")
FORMS = ("auto", "causal", "prefix", "span", "text_to_text")


def add_task_options(parser: Parser) -> None:
    """What is asked, and how. Without a default, so that it is known what was typed."""
    parser.add_argument(
        "--list", action="store_true", help="name the tasks that come along, and end"
    )
    parser.add_argument(
        "--task", nargs="+", metavar="TASK", help="a name of --list, a .toml file, or its folder"
    )
    parser.add_argument(
        "--compare", nargs=2, metavar="RUN", help="two runs on the same tasks, paired"
    )
    parser.add_argument(
        "--task-data",
        nargs="+",
        metavar="NAME=PATH",
        help="where a task's examples are: a folder of SPLIT.jsonl, a .jsonl file, or hf:NAME",
    )
    parser.add_argument(
        "--shots", type=int, metavar="N", help="examples shown before each question; default 0"
    )
    parser.add_argument("--split", choices=SPLITS, help="what is scored; default validation")
    parser.add_argument(
        "--limit", type=int, metavar="N", help="at most N questions of a task, drawn by the seed"
    )
    parser.add_argument(
        "--seed", type=int, metavar="N", help="of shots, limit and resampling; default 0"
    )
    parser.add_argument(
        "--form",
        choices=FORMS,
        help="how a question reads: as the training of this objective; default that of the run",
    )
    parser.add_argument(
        "--label", type=int, metavar="N", help="for routers that read labels: the source's number"
    )
    parser.add_argument("--json", metavar="PATH", help="write the scores there")
    parser.add_argument(
        "--examples", metavar="PATH", help="write each example there, one JSON object a line"
    )
