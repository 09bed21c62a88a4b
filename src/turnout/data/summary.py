"""What a run trains on, in numbers and in words."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

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

    @staticmethod
    def mixed(parts: Mapping[str, "Summary"], rates: Mapping[str, float]) -> "Summary":
        """The sources of a mixture together, by name, with the share of rows that each gives."""
        found = list(parts.values())
        digest = sha256()
        for name, part in parts.items():
            digest.update(f"{name} {part.sha256}\n".encode())
        skipped: Counter[str] = Counter()
        for part in found:
            skipped.update(part.skipped)
        shares = ", ".join(f"{name} {rate:.1%}" for name, rate in rates.items())
        notes = [f"{name}: {part.note}" for name, part in parts.items() if part.note]
        return Summary(
            origin="; ".join(f"{name} ({part.origin})" for name, part in parts.items()),
            sha256=digest.hexdigest(),
            documents=sum(part.documents for part in found),
            bytes=sum(part.bytes for part in found),
            train_documents=sum(part.train_documents for part in found),
            train_bytes=sum(part.train_bytes for part in found),
            train_rows=sum(part.train_rows for part in found),
            validation_documents=sum(part.validation_documents for part in found),
            validation_bytes=sum(part.validation_bytes for part in found),
            validation_rows=sum(part.validation_rows for part in found),
            skipped=dict(skipped),
            replaced=sum(part.replaced for part in found),
            note="; ".join([f"rows: {shares}", *notes]),
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
