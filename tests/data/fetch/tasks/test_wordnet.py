"""WordNet's format on lines written by hand, and the forms of words."""

import pytest
from tests.data.fetch.tasks.small import wordnet

from turnout.data.fetch.clean import CLEANERS
from turnout.data.fetch.tasks.questions import SEED, split_of
from turnout.data.fetch.tasks.wordnet import forms, irregular, open_examples, parse, synsets

DOG = (
    "00000007 05 n 02 dog 0 domestic_dog 0 002 @ 00000003 n 0000 #p 00000009 n 0102 | "
    'a tame animal; it barks; "the dog barked"; "a good dog"- Somebody  \n'
)


def test_a_synset_by_hand() -> None:
    (dog,) = parse("data.noun", "  1 licence\n" + DOG)
    assert (dog.key, dog.lexicographer, dog.part_of_speech) == ("n00000007", 5, "n")
    assert dog.words == ("dog", "domestic dog")
    assert dog.to("@") == ("n00000003",)
    assert dog.to("#p") == ("n00000009",)
    assert dog.definition == "a tame animal; it barks"
    assert dog.examples == ("the dog barked", "a good dog")


def test_satellites_are_adjectives_and_markers_go() -> None:
    line = "00000004 00 s 01 glum(ip) 0 001 & 00000005 a 0000 | in low spirits  "
    (glum,) = parse("data.adj", line)
    assert (glum.key, glum.words) == ("a00000004", ("glum",))
    verb = "00000001 29 v 01 breathe 0 000 02 + 02 00 + 08 00 | draw air  "
    assert next(parse("data.verb", verb)).pointers == ()


@pytest.mark.parametrize(
    "line",
    [
        DOG[:60],  # cut in the pointers
        DOG.replace(" | ", " "),
        DOG.replace("00000007", "0000007"),
        DOG.replace(" 02 dog", " 7f dog"),
        DOG.replace(" 002 @", " 999 @"),
        DOG.replace(" 002 @", " two @"),
        "garbage",
    ],
)
def test_a_line_that_is_no_synset_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"data\.noun line 2 is no synset"):
        list(parse("data.noun", DOG + line))


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ValueError, match=r"data\.verb is missing"):
        synsets({"usr/share/wordnet/data.noun": DOG.encode()}, "noun", "verb")


@pytest.mark.parametrize(
    ("word", "part", "some"),
    [
        ("dog", "n", {"dog", "dogs"}),
        ("city", "n", {"city", "cities"}),
        ("church", "n", {"churches"}),
        ("walk", "v", {"walk", "walks", "walked", "walking"}),
        ("make", "v", {"makes", "maked", "making"}),
        ("carry", "v", {"carries", "carried", "carrying"}),
        ("play", "v", {"plays", "played"}),
        ("stop", "v", {"stopped", "stopping"}),
    ],
)
def test_forms(word: str, part: str, some: set[str]) -> None:
    assert some <= forms(word, part)


def test_irregular_forms() -> None:
    files = {"a/verb.exc": b"went go\ngone go\nbore bear bore\n"}
    assert irregular(files, "verb") == {
        "go": {"went", "gone"},
        "bear": {"bore"},
        "bore": {"bore"},
    }
    assert irregular(files, "noun") == {}


def test_glosses_keep_definitions_and_leave_out_what_is_tested() -> None:
    raw = wordnet()["data.noun"]
    text = "\n".join(found for _, found in CLEANERS["glosses"]("data.noun", raw.encode()))
    senses = list(parse("data.noun", raw))
    assert all(f"{sense.words[0]}: {sense.definition}" in text for sense in senses)
    trained = [sense for sense in senses if sense.examples and open_examples(sense, SEED)]
    tested = [sense for sense in senses if sense.examples and not open_examples(sense, SEED)]
    assert trained
    assert tested
    assert all(f'"{example}"' in text for sense in trained for example in sense.examples)
    assert not any(example in text for sense in tested for example in sense.examples)
    assert all(split_of(sense.words[0], SEED) != "train" for sense in tested)
