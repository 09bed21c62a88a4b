"""The properties, in the order in which a verdict lists them."""

from turnout.conformance.properties.base import Property
from turnout.conformance.properties.capacity import CAPACITY
from turnout.conformance.properties.causality import CAUSALITY
from turnout.conformance.properties.execution import EXECUTION
from turnout.conformance.properties.invariance import INVARIANCE
from turnout.conformance.properties.numbers import NUMBERS

PROPERTIES: tuple[Property, ...] = (*NUMBERS, *CAPACITY, *INVARIANCE, *CAUSALITY, *EXECUTION)

__all__ = ["PROPERTIES", "Property"]
