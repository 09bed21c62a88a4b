"""What a run trains on, in numbers and in words."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from turnout.data.overlap import Overlap
from turnout.data.shards.corpus import Corpus


@dataclass(frozen=True)
class Summary:
    """Plain values only, for the run header and the checkpoint's metadata.

    ``documents`` and ``bytes`` count all text, ``train_*`` and ``validation_*`` the two sides;
    ``duplicates`` counts documents left out because another has the same text, ``skipped`` what
    was passed over by reason, ``replaced`` documents that were not quite UTF-8. ``overlap`` says
    how much of the held-out text the training text holds too.
    """

    origin: str
    sha256: str
    tokenizer: str
    documents: int
    bytes: int
    tokens: int
    train_documents: int
    train_bytes: int
    train_rows: int
    validation_documents: int
    validation_bytes: int
    validation_rows: int
    duplicates: int
    overlap: Overlap
    skipped: Mapping[str, int]
    replaced: int
    note: str

    @staticmethod
    def of(corpus: Corpus, train_rows: int, validation_rows: int) -> "Summary":
        """Count what was read and how it was split and cut into rows."""
        text, train, held_out = corpus.text, corpus.train_text, corpus.validation_text
        return Summary(
            origin=corpus.origin,
            sha256=text.sha256,
            tokenizer=corpus.tokenizer.kind,
            documents=text.num_documents,
            bytes=text.num_bytes,
            tokens=int(corpus.tokens.starts[-1]),
            train_documents=len(train),
            train_bytes=train.num_bytes,
            train_rows=train_rows,
            validation_documents=len(held_out),
            validation_bytes=held_out.num_bytes,
            validation_rows=validation_rows,
            duplicates=text.duplicates,
            overlap=corpus.overlap,
            skipped=dict(text.skipped),
            replaced=text.replaced,
            note=corpus.split.note,
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
            tokenizer=found[0].tokenizer,
            documents=sum(part.documents for part in found),
            bytes=sum(part.bytes for part in found),
            tokens=sum(part.tokens for part in found),
            train_documents=sum(part.train_documents for part in found),
            train_bytes=sum(part.train_bytes for part in found),
            train_rows=sum(part.train_rows for part in found),
            validation_documents=sum(part.validation_documents for part in found),
            validation_bytes=sum(part.validation_bytes for part in found),
            validation_rows=sum(part.validation_rows for part in found),
            duplicates=sum(part.duplicates for part in found),
            overlap=Overlap(
                sum(part.overlap.asked for part in found),
                sum(part.overlap.found for part in found),
            ),
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
        if self.tokens != self.bytes:
            parts.append(f"{self.tokens:,} tokens ({self.tokenizer})")
        if self.overlap.asked:
            parts.append(f"{self.overlap.share:.1%} of it stands in the training text too")
        if self.duplicates:
            parts.append(f"{_counted(self.duplicates, 'copy', 'copies')} of documents left out")
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


def _counted(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
