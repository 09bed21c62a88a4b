"""``turnout generate``: continue a prompt, or fill the blanks in it."""

from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

from turnout.cli.arguments import Parser
from turnout.cli.lengths import room
from turnout.cli.user_code import add_trust, trust
from turnout.config.errors import ConfigError, UserError
from turnout.config.generation import EarlyStopping, GenerateOptions

MOST_NEW_TOKENS = 200
TEMPERATURE = 0.7


def run(arguments: Sequence[str]) -> int:
    """Answer the prompts of a command line.

    Raises:
        UserError: no prompt is given.
    """
    options = _parser().parse(arguments)
    if not options.prompt:
        raise UserError('--prompt is missing; such as --prompt "def "')
    trust(options.trust)
    if "" in (options.stop or ()):
        raise ConfigError("--stop", "", "a text of at least one character")
    return _generate(options, _asked(options))


def _asked(options: Namespace) -> GenerateOptions:
    """What is asked for; greedy by default where there are beams, else at ``TEMPERATURE``."""
    beams, temperature = options.num_beams, options.temperature
    if temperature is None:
        temperature = 0.0 if beams > 1 else TEMPERATURE
    new_tokens = options.max_new_tokens
    return GenerateOptions(
        max_new_tokens=MOST_NEW_TOKENS if new_tokens is None else new_tokens,
        min_new_tokens=options.min_new_tokens,
        temperature=temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        repetition_penalty=options.repetition_penalty,
        num_beams=beams,
        length_penalty=options.length_penalty,
        early_stopping=options.early_stopping,
        seed=options.seed,
        label=options.label,
    )


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
    parser.add_argument("--min-new-tokens", type=int, default=0, metavar="N", help="default 0")
    parser.add_argument(
        "--stop", action="append", metavar="TEXT", help="ends the answer; may be given again"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        metavar="X",
        help=f"0 is greedy; default {TEMPERATURE}, and 0 with beams",
    )
    parser.add_argument("--top-k", type=int, metavar="K", help="the K most probable tokens only")
    parser.add_argument("--top-p", type=float, metavar="P", help="the fewest that reach P")
    parser.add_argument(
        "--repetition-penalty",
        type=float,
        default=1.0,
        metavar="X",
        help="above 1 against what was read or written already; default 1",
    )
    parser.add_argument(
        "--num-beams", type=int, default=1, metavar="N", help="search with N beams; default 1"
    )
    parser.add_argument(
        "--length-penalty",
        type=float,
        default=1.0,
        metavar="X",
        help="beams rank by log-probability / length ** X; default 1",
    )
    parser.add_argument(
        "--early-stopping",
        choices=get_args(EarlyStopping),
        default="likely",
        help="when a search ends that has N sequences: at once, when a better one is unlikely, "
        "or when there can be none; default likely",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default 0")
    parser.add_argument(
        "--label", type=int, metavar="N", help="for routers that read labels: the source's number"
    )
    add_trust(parser)
    return parser


def _generate(options: Namespace, asked: GenerateOptions) -> int:
    from dataclasses import replace

    from turnout.cli.samples import answer, prompt_ids, told
    from turnout.train.session import load_run, load_tokenizer

    folder, prompts, stop = Path(options.run), options.prompt, options.stop or ()
    config, model = load_run(folder)
    tokenizer = load_tokenizer(folder)
    if options.max_new_tokens is None:
        read = [prompt_ids(config.objective, config.model, tokenizer, each) for each in prompts]
        fits = room(config.model, max(map(len, read)), MOST_NEW_TOKENS)
        asked = replace(asked, max_new_tokens=fits)
    if len(prompts) == 1:
        _print_as_it_comes(told(model, tokenizer, config.objective, prompts[0], asked, stop))
        return 0
    for text in answer(model, tokenizer, config.objective, prompts, asked, stop):
        print(text)
    return 0


def _print_as_it_comes(pieces: Iterator[str]) -> None:
    """Prints and flushes every piece; an interruption leaves the line that was begun behind it."""
    begun = False
    try:
        for piece in pieces:
            begun = True
            print(piece, end="", flush=True)
    finally:
        if begun:
            print(flush=True)
