"""A model of the harness over a subject of ``turnout.evaluate``: one code scores for both.

The harness hands over a context and a continuation as text. How they become tokens is the matter of
the run's form, as in ``turnout eval``, so that the two agree on every example.
"""

from collections import defaultdict
from collections.abc import Sequence
from math import fsum
from typing import Any, final

from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from tqdm import tqdm

from turnout.config.errors import UserError
from turnout.evaluate.likelihood import Tell
from turnout.evaluate.subject import Subject, open_subject

NAME = "turnout"
MOST_NEW_TOKENS = 256  # where a task names no limit, as for other models of the harness
GREEDY = (None, 0, 0.0)


@final
@register_model(NAME)
class TurnoutLM(LM):  # type: ignore[misc]
    """A run's folder or a Hugging Face folder, as ``turnout eval`` opens it.

    Rows share batches by their length, and models are on the CPU: ``batch_size`` and ``device``,
    which the harness always gives, have no effect.

    Args:
        path: of the folder.
        form, label: as ``turnout.evaluate.subject.open_subject`` takes them.

    Raises:
        UserError: the folder cannot be read.
    """

    def __init__(
        self,
        path: str,
        form: str = "auto",
        label: int | None = None,
        device: str | None = None,
        batch_size: Any = None,
        max_batch_size: Any = None,
    ) -> None:
        super().__init__()
        self.subject: Subject = open_subject(path, form, label)

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Of each continuation behind its context, nats, and whether it is the greedy one."""
        rows = [self.subject.form.row(*request.args) for request in requests]
        with _bar("loglikelihood", disable_tqdm) as bar:
            found = self.subject.likelihoods(rows, _told(bar))
        results = [(each.total, each.greedy) for each in found]
        self._remember("loglikelihood", requests, results)
        return results

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Of each text, in as many rows as it takes, nats."""
        groups = [self.subject.form.windows("", request.args[0]) for request in requests]
        with _bar("loglikelihood_rolling", disable_tqdm) as bar:
            rows = [row for group in groups for row in group]
            found = iter(self.subject.likelihoods(rows, _told(bar)))
        results = [fsum(next(found).total for _ in group) for group in groups]
        self._remember("loglikelihood_rolling", requests, results)
        return results

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The greedy answer to each context, up to the first of its stops.

        Raises:
            UserError: sampling is asked for, or more tokens than the model's rows have.
        """
        alike: dict[tuple[int, tuple[str, ...]], list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            alike[_asked(request.args[1])].append(number)
        found: dict[int, str] = {}
        for (new, stop), numbers in alike.items():
            rows = [self.subject.form.prompt(requests[n].args[0], new) for n in numbers]
            with _bar("generate_until", disable_tqdm) as bar:
                written = self.subject.answers(rows, new, stop, _told(bar))
            found |= zip(numbers, written, strict=True)
        results = [found[number] for number in range(len(requests))]
        self._remember("generate_until", requests, results)
        return results

    def _remember(self, kind: str, requests: Sequence[Any], results: Sequence[Any]) -> None:
        """For the harness's own cache of answers."""
        for request, result in zip(requests, results, strict=True):
            self.cache_hook.add_partial(kind, request.args, result)


def _asked(options: dict[str, Any]) -> tuple[int, tuple[str, ...]]:
    """New tokens and stops."""
    if options.get("do_sample") or options.get("temperature") not in GREEDY:
        raise UserError(
            f"{NAME}: answers greedily: leave out do_sample and temperature (given: {options})"
        )
    until = options.get("until") or ()
    stops = (until,) if isinstance(until, str) else tuple(until)
    return int(options.get("max_gen_toks", MOST_NEW_TOKENS)), tuple(s for s in stops if s)


def _bar(name: str, hidden: bool) -> Any:
    return tqdm(desc=f"{NAME}: {name}", disable=hidden)


def _told(bar: Any) -> Tell:
    def tell(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return tell
