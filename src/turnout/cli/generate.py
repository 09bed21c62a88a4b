"""``turnout generate``: continue a prompt, or fill the blanks in it."""

from collections.abc import Sequence
from pathlib import Path

from turnout.cli.arguments import Parser
from turnout.cli.lengths import room
from turnout.cli.user_code import add_trust, trust
from turnout.config.errors import UserError
from turnout.config.generation import GenerateOptions

MOST_NEW_TOKENS = 200


def run(arguments: Sequence[str]) -> int:
    """Answer the prompts of a command line.

    Raises:
        UserError: no prompt is given.
    """
    options = _parser().parse(arguments)
    if not options.prompt:
        raise UserError('--prompt is missing; such as --prompt "def "')
    trust(options.trust)
    new_tokens = options.max_new_tokens
    asked = GenerateOptions(
        max_new_tokens=MOST_NEW_TOKENS if new_tokens is None else new_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
        label=options.label,
    )
    return _generate(Path(options.run), options.prompt, asked, new_tokens)


def _parser() -> Parser:
    parser = Parser(
        "turnout generate",
        "Continue prompts with a causal or prefix run, fill their blanks (___) with a span run, or "
        "answer them with a text-to-text run.",
    )
    parser.add_argument("run", metavar="RUN", help="a run's folder, or one of its step folders")
    parser.add_argument("--prompt", action="append", metavar="TEXT", help="may be given again")
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        metavar="N",
        help=f"default: as many as fit, at most {MOST_NEW_TOKENS}",
    )
    parser.add_argument(
        "--temperature", type=float, default=0.7, metavar="X", help="0 is greedy; default 0.7"
    )
    parser.add_argument("--top-k", type=int, metavar="K", help="the K most probable tokens only")
    parser.add_argument("--top-p", type=float, metavar="P", help="the fewest that reach P")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default 0")
    parser.add_argument(
        "--label", type=int, metavar="N", help="for routers that read labels: the source's number"
    )
    add_trust(parser)
    return parser


def _generate(
    folder: Path, prompts: list[str], asked: GenerateOptions, new_tokens: int | None
) -> int:
    from dataclasses import replace

    from turnout.cli.samples import answer, prompt_ids
    from turnout.train.session import load_run, load_tokenizer

    config, model = load_run(folder)
    tokenizer = load_tokenizer(folder)
    if new_tokens is None:
        read = [prompt_ids(config.objective, config.model, tokenizer, each) for each in prompts]
        longest = max(map(len, read))
        asked = replace(asked, max_new_tokens=room(config.model, longest, MOST_NEW_TOKENS))
    for text in answer(model, tokenizer, config.objective, prompts, asked):
        print(text)
    return 0
