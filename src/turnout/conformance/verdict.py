"""What the kit found: a property a line, readable without knowing the kit."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["holds", "FAILS", "not asked"]


@dataclass(frozen=True)
class Finding:
    """One property of one subject.

    Attributes:
        name: short name of the property, such as ``padding``.
        status: ``not asked`` where the property does not apply.
        detail: what was measured, or why nothing was.
    """

    name: str
    status: Status
    detail: str


@dataclass(frozen=True)
class Verdict:
    """All findings about a subject."""

    subject: str
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing fails."""
        return not self.failures

    @property
    def failures(self) -> tuple[str, ...]:
        """Names of the properties that fail."""
        return tuple(found.name for found in self.findings if found.status == "FAILS")

    def text(self) -> str:
        """A table with a line for each property, and what follows from it."""
        width = max(len(found.name) for found in self.findings)
        lines = [
            f"{found.name:<{width}}  {found.status:<9}  {found.detail}" for found in self.findings
        ]
        held = sum(found.status == "holds" for found in self.findings)
        end = (
            f"{self.subject}: {held} properties hold, none fails"
            if self.passed
            else f"{self.subject}: FAILS {', '.join(self.failures)}"
        )
        return "\n".join([*lines, end])
