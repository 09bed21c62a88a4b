"""What a run trains on, in numbers and in words."""

from collections.abc import Mapping
from dataclasses import dataclass

from turnout.data.sources import Documents
from turnout.data.split import Split


@dataclass(frozen=True)
class Summary:
    """Plain values only, for the run header and the checkpoint's metadata.

    ``documents`` and ``bytes`` count all text, ``train_*`` and ``validation_*`` the two sides;
    ``skipped`` counts files by reason, ``replaced`` documents that were not quite UTF-8.
    """

    origin: str
    sha256: str
    documents: int
    bytes: int
    train_documents: int
    train_bytes: int
    train_rows: int
    validation_documents: int
    validation_bytes: int
    validation_rows: int
    skipped: Mapping[str, int]
    replaced: int
    note: str

    @staticmethod
    def of(documents: Documents, sides: Split, train_rows: int, validation_rows: int) -> "Summary":
        """Count what was read and how it was split and cut into rows."""
        return Summary(
            origin=documents.origin,
            sha256=documents.sha256,
            documents=len(documents.texts),
            bytes=documents.num_bytes,
            train_documents=len(sides.train),
            train_bytes=sides.train_bytes,
            train_rows=train_rows,
            validation_documents=len(sides.validation),
            validation_bytes=sides.validation_bytes,
            validation_rows=validation_rows,
            skipped=dict(documents.skipped),
            replaced=documents.replaced,
            note=sides.note,
        )

    def text(self) -> str:
        """One or two sentences for people."""
        parts = [
            f"{self.origin}: {self.documents:,} documents, {self.bytes:,} bytes "
            f"(sha256 {self.sha256[:12]}); held out {self.validation_documents:,} documents, "
            f"{self.validation_bytes:,} bytes"
        ]
        if self.skipped:
            reasons = ", ".join(
                f"{count} {reason}" for reason, count in sorted(self.skipped.items())
            )
            parts.append(f"skipped {reasons}")
        if self.replaced:
            parts.append(f"{self.replaced} not quite UTF-8, repaired")
        if self.note:
            parts.append(self.note)
        return "; ".join(parts)
