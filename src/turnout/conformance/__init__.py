"""The contract as a kit: what every router and sparse layer must do, measured, with a verdict."""

from turnout.conformance.foreign import ForeignLayer
from turnout.conformance.kit import check
from turnout.conformance.subject import RouterLayer, Seen, Setting, Subject
from turnout.conformance.verdict import Finding, Verdict

__all__ = [
    "Finding",
    "ForeignLayer",
    "RouterLayer",
    "Seen",
    "Setting",
    "Subject",
    "Verdict",
    "check",
]
