"""The suites by their names."""

from turnout.bench.options import offer
from turnout.bench.suite import Suite


def build(name: str) -> Suite:
    """A suite, whose imports happen here: one that times transformers needs seconds for them.

    Raises:
        UserError: there is none of that name.
    """
    offer(name)
    from turnout.bench.layer import LayerSuite

    return LayerSuite(())
