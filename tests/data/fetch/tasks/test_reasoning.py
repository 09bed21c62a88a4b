"""Word in context, entailment and spam: what is same, what follows, and what a mail says."""

import base64
import json
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.fetch.tasks.small import Lines, sources

from turnout.data.fetch.clean import CLEANERS
from turnout.data.fetch.tasks import entailment, spam, wic
from turnout.data.fetch.tasks.questions import Question, Sources, split_of


def sentences(question: Question) -> tuple[str, str]:
    first, second = question.inputs.split(" first: ")[1].split(" second: ")
    return first, second


def wordnet_of(nouns: Lines, verbs: Lines | None = None) -> Sources:
    files = {"data.noun": nouns.text, "data.verb": (verbs or Lines("v")).text}
    return {"wordnet": {f"a/{name}": text.encode() for name, text in files.items()}}


def test_same_sense_or_not_by_hand() -> None:
    """In the small WordNet a sentence says of each word whether it is old or new."""
    built = wic.wic(sources("wordnet"), 0)
    for some in built.splits.values():
        for one in some:
            first, second = ("old" in text for text in sentences(one))
            assert one.targets == ("yes" if first == second else "no")
            assert all(one.entity in text for text in sentences(one))
            assert first in (True, False)
    assert {one.relation for one in built.splits["train"]} == {"noun", "verb"}


def test_sentences_are_in_one_split_and_tested_ones_in_no_glosses() -> None:
    files = sources("wordnet")
    built = wic.wic(files, 0)
    told = {
        split: {t for one in some for t in sentences(one)} for split, some in built.splits.items()
    }
    assert not told["train"] & told["test"]
    assert not told["train"] & told["validation"]
    assert not told["validation"] & told["test"]
    glosses = "".join(
        text
        for name, raw in files["wordnet"].items()
        if PurePosixPath(name).name.startswith("data.")
        for _, text in CLEANERS["glosses"](name, raw)
    )
    assert not [text for text in told["test"] | told["validation"] if text in glosses]
    assert [text for text in told["train"] if text in glosses]


def two_senses(lex: tuple[int, int], share: bool = False) -> Sources:
    """Many words of two senses with two sentences each, perhaps with a hypernym in common."""
    nouns = Lines("n")
    top = nouns.add("thing", "anything", 3)
    to = (("@", top),) if share else ()
    for number in range(60):
        word = f"w{chr(97 + number // 26)}{chr(97 + number % 26)}"
        for one in lex:
            told = f'"a {word} is {one} here"; "the {word} was {one} then"'
            nouns.add(word, f"sense; {told}", one, to)
    return wordnet_of(nouns)


@pytest.mark.parametrize(
    ("lex", "share", "any_"), [((3, 4), False, True), ((3, 4), True, False), ((3, 3), False, False)]
)
def test_senses_too_close_are_no_negatives(lex: tuple[int, int], share: bool, any_: bool) -> None:
    """Without negatives nothing is left, since both answers are asked for equally often."""
    built = wic.wic(two_senses(lex, share), 0)
    assert bool(built.splits["train"]) == any_


def test_a_shared_sentence_is_not_tested_after_it_was_trained_on() -> None:
    """Every synset has two words, of which one is trained on and the other tested."""
    letters_ = "abcdefghijklmnopqrstuvwxyz"
    words = [f"{a}{b}q" for a in letters_ for b in letters_]
    train = [word for word in words if split_of(word, 0) == "train"][:40]
    test = [word for word in words if split_of(word, 0) == "test"][:40]
    nouns = Lines("n")
    for one, other in zip(train, test, strict=True):
        for lex in (3, 4):
            told = f'"{one} with {other} at {lex}"; "{other} then {one} by {lex}"'
            nouns.add(f"{one} {other}", f"both; {told}", lex)
    built = wic.wic(wordnet_of(nouns), 0)
    assert built.splits["test"]
    assert not built.splits["train"]


def test_what_follows_by_hand() -> None:
    built = entailment.entailment(sources("wordnet", "iso-codes"), 0)
    seen = set()
    for one in built.splits["train"]:
        negated = one.relation.endswith("negated")
        premise, _, conclusion = one.inputs.partition(entailment.HYPOTHESIS)
        narrow, wide = (conclusion, premise) if negated else (premise, conclusion)
        assert one.entity in narrow
        if one.relation.startswith("hypernym"):
            kind = "beast" if "quag" in narrow else "fowl"
            right = f" {kind}" in wide
        else:
            code = one.entity.rpartition(" ")[2].upper()
            right = wide.rstrip(".").endswith((f"Land {code}", f"Republic of Land {code}"))
        assert one.targets == ("yes" if right else "no"), one
        seen.add((one.relation, one.targets))
    assert len(seen) == 8


def test_every_hypothesis_and_every_premise_is_as_often_right_as_wrong() -> None:
    built = entailment.entailment(sources("wordnet", "iso-codes"), 0)
    for some in built.splits.values():
        for side in (0, 2):
            sums: dict[str, int] = {}
            for one in some:
                text = one.inputs.partition(entailment.HYPOTHESIS)[side]
                sums[text] = sums.get(text, 0) + (1 if one.targets == "yes" else -1)
            assert set(sums.values()) == {0}


def test_what_baselines_read() -> None:
    one = entailment.entailment(sources("wordnet", "iso-codes"), 0).splits["train"][0]
    assert entailment.hypothesis(one) == one.inputs.split(" hypothesis: ")[1]
    text = "entails? premise: Ann saw a red ox yesterday. hypothesis: Ann saw an ox yesterday."
    # ann, saw, ox and yesterday of five different words
    assert entailment.overlap(Question(text, "yes", ("yes", "no"), 0, "r", "e")) == "shared4 of5"
    text = "same sense? word: ox first: the Ox ran second: an ox and the cow"
    assert wic.overlap(Question(text, "yes", ("yes", "no"), 0, "r", "e")) == "shared2"


MAIL = (
    "From: cheat@example.org\nX-Spam: yes\nSubject: =?iso-8859-1?q?Caf=E9?= time\n"
    "Content-Type: text/plain; charset={0}\nContent-Transfer-Encoding: base64\n\n{1}\n"
)


def encoded(text: bytes) -> str:
    return base64.b64encode(text).decode()


def test_a_mail_is_its_subject_and_body() -> None:
    raw = MAIL.format("utf-8", encoded("Grüße\r\nan  alle".encode())).encode()
    assert spam.read(raw) == ("Café time", "Grüße an alle")
    raw = MAIL.format("no-such-set", encoded(b"plain \xe9")).encode()
    assert spam.read(raw) == ("Café time", "plain é")


def test_markup_and_attachments_are_left_out() -> None:
    page = (
        "<html><head><title>t</title></head><!-- x --><p>Buy &amp; <b>win</b></p><script>y</script>"
    )
    head = "Subject: a\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=cut\n\n"
    part = "--cut\nContent-Type: {0}\n\n{1}\n"
    mail = head + part.format("text/html", page) + part.format("image/png", "xx") + "--cut--\n"
    assert spam.read(mail.encode()) == ("a", "Buy & win")
    both = (
        head + part.format("text/html", page) + part.format("text/plain", "Only this") + "--cut--"
    )
    assert spam.read(both.encode()) == ("a", "Only this")


@given(st.binary(max_size=300))
def test_any_bytes_are_a_mail_of_one_line(raw: bytes) -> None:
    for text in spam.read(b"Content-Type: text/html\n" + raw):
        text.encode()
        assert "\n" not in text


def test_equal_bodies_are_one_mail_and_headers_do_not_leak() -> None:
    files = dict(sources("spam-assassin")["spam-assassin"])
    built = spam.spam({"spam-assassin": files}, 0)
    assert sum(map(len, built.splits.values())) == 120
    assert not [
        one for some in built.splits.values() for one in some if "example.org" in one.inputs
    ]
    first = next(name for name in files if "spam-1" in name)
    again = files[first].replace(b"Win!", b"Other subject")
    built = spam.spam({"spam-assassin": {**files, first.replace("spam-1", "spam-2"): again}}, 0)
    assert sum(map(len, built.splits.values())) == 120
    assert built.notes["repeated_bodies"] == 1
    short = {"package/data/spam-1/a.txt": b"Subject: x\n\nhi\n"}
    with pytest.raises(ValueError, match="no mail"):
        spam.spam({"spam-assassin": short}, 0)


def test_two_sentences_are_asked_once_and_with_one_answer() -> None:
    def pair(first: str, second: str, same: bool, word: str = "ox") -> wic._Pair:
        return wic._Pair(word, "n", first, second, same)

    kept = pair("a", "b", True)
    found = [kept, pair("b", "a", True), pair("a", "c", True), pair("c", "a", False)]
    other = pair("a", "b", False, "cow")
    assert wic._different([*found, other]) == [kept, other]


def test_subdivisions_that_are_named_as_countries_are_not_asked() -> None:
    files = sources("wordnet", "iso-codes")
    name = next(name for name in files["iso-codes"] if name.endswith("3166-2.json"))
    rows = json.loads(files["iso-codes"][name])
    rows["3166-2"] += [{"code": "AB-9", "name": "The Republic of Land-AA"}]
    rows["3166-2"] += [{"code": "AB-8", "name": "Free Mark"}]
    changed = {**files, "iso-codes": {**files["iso-codes"], name: json.dumps(rows).encode()}}
    narrow = {one.narrow for one in entailment._places(changed)}
    assert "Free Mark" in narrow
    assert "The Republic of Land-AA" not in narrow


@pytest.mark.parametrize(
    ("definition", "clash"), [("a tool for smiths", False), ("any of several small beasts", True)]
)
def test_what_the_definition_says_is_not_denied(definition: str, clash: bool) -> None:
    """WordNet may have no pointer from a narrow term to a wide one that defines it."""
    ox = entailment._Below("ox", "beast", frozenset({"beast"}), "5", "a thing")
    axe = entailment._Below("axe", "tool", frozenset({"tool"}), "5", definition)
    assert entailment._clash(ox, axe) == entailment._clash(axe, ox) == clash
