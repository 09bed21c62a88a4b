"""What a suite can be asked for, and what it does when it is not asked. No torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from turnout.config.errors import UserError, nearest

TOUR: Final = "tour"
HALF_AND_WHOLE: Final = ("float32", "bfloat16")
FORWARD, BOTH = "forward", "forward+backward"
PREFILL, DECODE, GENERATE = "prefill", "decode", "generate"


@dataclass(frozen=True)
class Options:
    """The knobs of all suites. One that is empty or 0 has no meaning for the suite at hand.

    Attributes:
        experts: of a sparse layer; a contest each.
        tokens: that an expert computes, on average; of ``experts`` and ``scaling``: of the batch.
        k: experts that a token passes through.
        rows: of the batch.
        dtypes: to compute in; weights are float32, but where a suite says otherwise.
        modes: what is timed.
        width: of the model; experts and dense networks are four times as wide.
        layers: of each stack.
        vocabulary: entries.
        new: tokens to generate.
        room: GB above which a peer is left out that would need them.
        repeats: of each measurement.
        threads: of torch; 0 takes what it takes by itself.
        peers: whether other libraries are timed too.
    """

    experts: tuple[int, ...] = ()
    tokens: tuple[int, ...] = ()
    k: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()
    dtypes: tuple[str, ...] = HALF_AND_WHOLE
    modes: tuple[str, ...] = ()
    width: int = 512
    layers: int = 0
    vocabulary: int = 0
    new: int = 0
    room: float = 0.0
    repeats: int = 5
    threads: int = 0
    peers: bool = True


@dataclass(frozen=True)
class Offer:
    """A suite as the command line sees it: what it times, and its options by default.

    Attributes:
        modes: all that it has; the default may be some of them.
        dtypes: likewise.
        peers: distributions of the other libraries that it times.
    """

    summary: str
    defaults: Options
    modes: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = HALF_AND_WHOLE
    peers: tuple[str, ...] = ()

    def options(self, given: Mapping[str, Any]) -> Options:
        """The defaults with ``given`` in their places.

        Raises:
            UserError: a value that is not allowed, or an option without meaning here.
        """
        for name, value in given.items():
            self._check(name, value)
        return replace(self.defaults, **given)

    @property
    def takes(self) -> tuple[str, ...]:
        """The options that mean something here."""
        names = [each.name for each in fields(Options)]
        given = {"threads": True, "peers": bool(self.peers)}
        return tuple(n for n in names if given.get(n, bool(getattr(self.defaults, n))))

    def _check(self, name: str, value: Any) -> None:
        if name not in self.takes:
            known = " ".join(f"--{each}" for each in self.takes if each != "peers")
            typed = "--no-peers" if name == "peers" else f"--{name}"
            raise UserError(f"{typed}: must not be given to this suite; it takes {known}")
        values = value if isinstance(value, tuple) else (value,)
        words = {"modes": self.modes, "dtypes": self.dtypes}.get(name)
        for each in values:
            if words is not None and each not in words:
                raise UserError(f"--{name} {each}: must be one of {', '.join(words)}")
            if words is None and name != "peers" and not 0 < each < math.inf:
                raise UserError(f"--{name} {each}: must be above 0")


SUITES: Final[Mapping[str, Offer]] = {
    TOUR: Offer(
        "a minute: what a small sparse layer and sparse decoding cost beside dense ones",
        Options(
            (8,), (128,), (1,), rows=(1,), width=256, layers=2, vocabulary=4096, new=32, repeats=7
        ),
    ),
    "layer": Offer(
        "a sparse layer against the dense layer of equal arithmetic, and other libraries'",
        Options((8, 32, 64), (32, 128, 512), (1,), modes=(BOTH,), room=4.0),
        (FORWARD, BOTH),
        peers=("transformers", "st-moe-pytorch", "mixture-of-experts"),
    ),
    "step": Offer(
        "a whole training step of a Switch Transformer, its dense twin and transformers'",
        Options((8, 32), rows=(8,), layers=6, vocabulary=32128),
        peers=("transformers",),
    ),
    "generation": Offer(
        "prefill and decoding of a Switch Transformer, its dense twin and transformers'",
        Options(
            (8, 32),
            rows=(1, 16),
            modes=(PREFILL, DECODE, GENERATE),
            layers=6,
            vocabulary=32128,
            new=64,
        ),
        (PREFILL, DECODE, GENERATE),
        peers=("transformers",),
    ),
    "experts": Offer(
        "Mixtral, OLMoE and Qwen3-MoE of transformers on its implementations and on ours",
        Options(
            (64,),
            (2048,),
            dtypes=("float32", "autocast", "bfloat16"),
            modes=(BOTH,),
            layers=1,
            room=4.0,
        ),
        (FORWARD, BOTH),
        ("float32", "autocast", "bfloat16"),
        ("transformers",),
    ),
    "scaling": Offer(
        "a layer on the same tokens with ever more experts, beside a model of weight traffic",
        Options((8, 16, 32, 64, 128, 256), (4096,)),
    ),
}


def offer(name: str) -> Offer:
    """A suite by its name.

    Raises:
        UserError: there is none of that name.
    """
    if name not in SUITES:
        raise UserError(f"no suite {name!r}; {nearest(name, SUITES)}")
    return SUITES[name]
