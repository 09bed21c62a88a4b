"""Spam or not, from the public mails of SpamAssassin: subject and body alone.

The other headers tell which folder a mail was taken from, and so do not belong in the text.
"""

import email
import email.header
import email.message
import email.policy
import hashlib
import html
import re
from collections.abc import Iterator

from turnout.data.fetch.clean.text import tidy
from turnout.data.fetch.tasks.questions import (
    SPLITS,
    Built,
    Question,
    Sources,
    ask,
    generator,
    shuffled,
    split_of,
)

PREFIX = "spam or ham?"
RELATION = "mail"
_ANSWERS = ("spam", "ham")
_LONGEST = 2000
_READ = 200_000  # of a part; looking for markup takes time
_SHORTEST = 20
_FOLDER = re.compile(r"package/data/(?:easy-|hard-)?(spam|ham)-(\d/[^/]+)\.txt")
_HIDDEN = re.compile(r"<(script|style|head)\b.*?</\1\s*>|<!--.*?-->", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z!][^<>]*>")
_BLANKS = re.compile(r"\s+")


def spam(sources: Sources, seed: int) -> Built:
    """Mails, each body once as far as it is shown, split by it.

    Raises:
        ValueError: no mail can be read.
    """
    splits: dict[str, list[Question]] = {split: [] for split in SPLITS}
    seen: set[str] = set()
    repeated = unreadable = 0
    for name, raw in sorted(sources["spam-assassin"].items()):
        match = _FOLDER.fullmatch(name)
        if match is None:
            continue
        subject, whole = read(raw)
        body = whole[:_LONGEST]
        key = hashlib.sha256(body.lower().encode()).hexdigest()
        if len(body) < _SHORTEST:
            unreadable += 1
        elif key in seen:
            repeated += 1
        else:
            seen.add(key)
            text = f"{PREFIX} subject: {subject} body: {body}"
            one = ask(text, _ANSWERS, match[1], RELATION, f"{match[1]} {match[2]}")
            splits[split_of(key, seed)].append(one)
    if not seen:
        raise ValueError("no mail can be read")
    mixed = {split: shuffled(some, generator(seed, split)) for split, some in splits.items()}
    return Built(mixed, {"repeated_bodies": repeated, "without_text": unreadable})


def read(raw: bytes) -> tuple[str, str]:
    """Subject and body of a mail as plain text in one line, markup taken out."""
    mail = email.message_from_bytes(raw, policy=email.policy.compat32)
    return _plain(_subject(mail)), _plain("\n".join(_texts(mail)))


def _subject(mail: email.message.Message) -> str:
    try:
        return str(email.header.make_header(email.header.decode_header(mail.get("Subject") or "")))
    except (LookupError, ValueError):
        return str(mail.get("Subject") or "")


def _texts(mail: email.message.Message) -> Iterator[str]:
    """The parts that are text; of alternatives the plain one."""
    parts = [part for part in mail.walk() if part.get_content_maintype() == "text"]
    plain = [part for part in parts if part.get_content_subtype() == "plain"]
    for part in plain or parts:
        text = _decoded(part)[:_READ]
        if part.get_content_subtype() == "html" or "<html" in text[:500].lower():
            text = html.unescape(_TAG.sub(" ", _HIDDEN.sub(" ", text)))
        yield text


def _decoded(part: email.message.Message) -> str:
    payload = part.get_payload(decode=True)
    raw = payload if isinstance(payload, bytes) else b""
    try:
        return raw.decode(part.get_content_charset() or "latin-1", "replace")
    except LookupError:
        return raw.decode("latin-1")


def _plain(text: str) -> str:
    return _BLANKS.sub(" ", tidy(text)).strip()
