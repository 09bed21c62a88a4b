"""Asks a subject every property and collects the answers."""

from collections.abc import Callable, Iterable

from turnout.conformance.properties import PROPERTIES, Property
from turnout.conformance.properties.base import Broken, NotAsked
from turnout.conformance.subject import Subject
from turnout.conformance.verdict import Finding, Verdict


def check(
    subject: Subject,
    properties: Iterable[Property] | None = None,
    tell: Callable[[Finding], None] | None = None,
) -> Verdict:
    """The verdict on a subject.

    Args:
        properties: which to ask, all by default.
        tell: is given each finding as it is made.
    """
    findings = []
    for asked in PROPERTIES if properties is None else properties:
        found = _find(subject, asked)
        findings.append(found)
        if tell is not None:
            tell(found)
    return Verdict(subject.name, tuple(findings))


def _find(subject: Subject, asked: Property) -> Finding:
    if asked.white_box and not subject.white_box:
        return Finding(asked.name, "not asked", "needs to look into the layer")
    try:
        return Finding(asked.name, "holds", asked.check(subject))
    except Broken as broken:
        return Finding(asked.name, "FAILS", str(broken))
    except NotAsked as reason:
        return Finding(asked.name, "not asked", str(reason))
    except Exception as error:  # whatever a stranger's code raises is an answer
        first = str(error).strip().splitlines()
        said = first[0] if first else "no message"
        return Finding(asked.name, "FAILS", f"raises {type(error).__name__}: {said}")
