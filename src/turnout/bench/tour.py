"""A minute for newcomers: what a sparse layer and sparse decoding cost beside dense ones here."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, final

from turnout.bench.generation import GenerationSuite
from turnout.bench.layer import LayerSuite
from turnout.bench.options import BOTH, DECODE, Options
from turnout.bench.suite import Contest, Suite


@final
@dataclass(frozen=True)
class TourSuite(Suite):
    """A training step of a small layer, then decoding by a small model, without other libraries."""

    name: ClassVar[str] = "tour"

    def contests(self, options: Options) -> Iterator[Contest]:
        alone = replace(options, peers=False)
        yield from LayerSuite(()).contests(replace(alone, modes=(BOTH,)))
        yield from GenerationSuite(compiled=False).contests(replace(alone, modes=(DECODE,)))
