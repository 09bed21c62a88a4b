"""What facts are about: the ways to ask for each relation, and to state it.

In every row the last way is held out of training: a fact that was learnt by the others is asked by
it. ``{}`` is the subject; in statements ``{0}`` is the subject and ``{1}`` the answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Relation:
    """One kind of fact.

    Attributes:
        name: as in a question's ``relation``.
        asks: at least three ways to ask, of which the last is held out.
        states: at least two ways to state, of which the last is held out.
    """

    name: str
    asks: tuple[str, ...]
    states: tuple[str, ...]


@dataclass(frozen=True)
class Fact:
    """A subject and its answer.

    Attributes:
        relation: a name in ``RELATIONS``.
        subject: as it is asked for.
        answer: the right one.
        entity: what the fact is of, by which it is split: the country, also where its code is
            the subject.
        source: where it is from.
        also: other right answers, which are no wrong choices.
        near: what nobody would call wrong, and is no answer either: an organism, where a painter
            is asked for. No wrong choices too.
        group: wrong choices are taken from facts of the same group first.
        names: other names of the entity.
    """

    relation: str
    subject: str
    answer: str
    entity: str
    source: str
    also: frozenset[str] = frozenset()
    group: str = ""
    near: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()


_TABLE = """
word
 Which word means: {}?
 What is the word for the following? {}
 {}: which word is that?
 = Name what is defined so: {}
 - The word for the following is {1}: {0}
 - {1}: {0}
role
 What is {} an instance of?
 What kind of person, place or thing is {}?
 Who or what is {}?
 = Say in a word or two what {} is.
 - {0} is an instance of this: {1}
 - One {1} is {0}.
part
 What is {} a part of?
 To what does {} belong as a part?
 {} is part of what?
 = Name the whole that has {} as a part.
 - {0} is a part of {1}.
 - One part of {1} is {0}.
subdivision-country
 In which country is {}?
 To which country does {} belong?
 {} lies in which country?
 = Name the country of {}.
 - {0} is in {1}.
 - {1} is the country of {0}.
region-capital
 What is the chief town of {}?
 Which town is the capital of {}?
 {} is governed from which town?
 = Name the capital town of {}.
 - The chief town of {0} is {1}.
 - {1} is the capital town of {0}.
country-capital
 What is the capital of {}?
 Which city is the capital of {}?
 {} has which city as its capital?
 = Name the capital of {}.
 - The capital of {0} is {1}.
 - {1} is the capital of {0}.
capital-country
 Which country has {} as its capital?
 {} is the capital of which country?
 Of which country is {} the capital?
 = Name the country whose capital is {}.
 - {0} is the capital of the country {1}.
 - The country {1} has its capital in {0}.
country-continent
 On which continent is {}?
 To which continent does {} belong?
 {} lies on which continent?
 = Name the continent of {}.
 - {0} is on this continent: {1}
 - {1} is the continent of {0}.
country-currency
 What is the currency of {}?
 Which currency is used in {}?
 In {} people pay with which currency?
 = Name the money of {}.
 - The currency of {0} is this: {1}
 - {1} is the money of {0}.
country-language
 Which language is spoken in {}?
 What is the first language of {}?
 In {} people speak which language?
 = Name the main language of {}.
 - The first language of {0} is {1}.
 - {1} is the main language of {0}.
country-phone
 What is the telephone code of {}?
 Which number must one dial first to call {}?
 {} has which dialling code?
 = Name the number in front of telephone numbers of {}.
 - The telephone code of {0} is {1}.
 - {1} is what one dials first to call {0}.
country-code
 What is the two-letter code of {}?
 Which two letters stand for {}?
 {} has which two-letter code?
 = Write {} in two letters.
 - The two-letter code of {0} is {1}.
 - {1} stands for {0}.
code-country
 Which country has the code {}?
 What country is meant by the letters {}?
 {} is the code of which country?
 = Name the country written as {}.
 - The code {0} means {1}.
 - {1} is the country with the code {0}.
country-code3
 What is the three-letter code of {}?
 Which three letters stand for {}?
 {} has which three-letter code?
 = Write {} in three letters.
 - The three-letter code of {0} is {1}.
 - {1} is the three-letter name of {0}.
currency-code
 What is the code of the currency {}?
 Which three letters stand for the currency {}?
 The currency {} has which code?
 = Write the currency {} in three letters.
 - The code of the currency {0} is {1}.
 - {1} is the currency {0}.
code-currency
 Which currency has the code {}?
 What currency is meant by the letters {}?
 {} is the code of which currency?
 = Name the currency written as {}.
 - The currency code {0} means {1}.
 - {1} is the currency with the code {0}.
language-code
 What is the three-letter code of the language {}?
 Which three letters stand for the language {}?
 The language {} has which code?
 = Write the language {} in three letters.
 - The three-letter code of the language {0} is {1}.
 - {1} is the language {0}.
code-language
 Which language has the code {}?
 What language is meant by the letters {}?
 {} is the code of which language?
 = Name the language written as {}.
 - The language code {0} means {1}.
 - {1} is the language with the code {0}.
script-code
 What is the code of the script {}?
 Which four letters stand for the script {}?
 The script {} has which code?
 = Write the name of the script {} in four letters.
 - The code of the script {0} is {1}.
 - {1} is the script {0}.
code-script
 Which script has the code {}?
 What script is meant by the letters {}?
 {} is the code of which script?
 = Name the script written as {}.
 - The script code {0} means {1}.
 - {1} is the script with the code {0}.
young
 Which animal is called a {} when it is young?
 What does a {} grow up to be?
 A {} is the young of which animal?
 = Name the animal of which a {} is a baby.
 - A {0} is a young {1}.
 - The {1} is called {0} when it is young.
group
 What is a group of {} called?
 Which word stands for many {} together?
 Many {} together are a what?
 = Name a company of {}.
 - A group of {0} is called this: {1}
 - {1} is the word for many {0} together.
element-symbol
 What is the symbol of the element {}?
 Which letters stand for the element {}?
 Chemists write {} with which letters?
 = Write the element {} as in a formula.
 - The symbol of the element {0} is {1}.
 - {1} is the element {0}.
element-number
 What is the atomic number of {}?
 How many protons has an atom of {}?
 {} stands at which place among the elements?
 = Number the element {}.
 - The atomic number of {0} is {1}.
 - {1} is the number of the element {0}.
flower
 What does the flower {} mean?
 What is said by giving {}?
 In the language of flowers, what is {}?
 = Tell the meaning of the flower {}.
 - The flower {0} means this: {1}
 - {1} is what the flower {0} says.
latin
 What does the Latin {} mean?
 How is {} put into English?
 The Latin {} is what in English?
 = Translate {} from Latin.
 - The Latin {0} means this: {1}
 - {1} is English for {0}.
president-successor
 Who was president after {}?
 Who followed {} as president?
 {} was followed by which president?
 = Name the president next to {}.
 - The president after {0} was {1}.
 - {1} was president next to {0}.
sovereign-successor
 Who reigned in England after {}?
 Who followed {} on the throne?
 {} was followed by which sovereign?
 = Name the sovereign next to {}.
 - The sovereign after {0} was {1}.
 - {1} reigned next to {0}.
state-abbreviation
 How is the state {} abbreviated?
 Which letters stand for the state {}?
 Letters to {} are marked with which two letters?
 = Abbreviate the state {}.
 - The state {0} is abbreviated {1}.
 - {1} is short for the state {0}.
state-flower
 What is the flower of the state {}?
 Which flower stands for {}?
 {} has which flower as its own?
 = Name the state flower of {}.
 - The flower of the state {0} is this: {1}
 - {1} is the flower of {0}.
area-code
 In which state is the area code {}?
 Which state is called by {}?
 {} is an area code of which state?
 = Name the state of area code {}.
 - The area code {0} is in {1}.
 - {1} has the area code {0}.
female
 What is the female of {}?
 Which word is the feminine of {}?
 A female {} is called what?
 = Name the woman or female that goes with {}.
 - The female of {0} is this: {1}
 - {1} is the feminine of {0}.
opposite
 What is the opposite of {}?
 Which word is contrary to {}?
 Not {} but what?
 = Name what {} is not.
 - The opposite of {0} is this: {1}
 - {1} is contrary to {0}.
killer
 Who killed {}?
 By whom was {} murdered?
 {} was the victim of whom?
 = Name the murderer of {}.
 - {0} was killed by {1}.
 - {1} is the one who murdered {0}.
poem-author
 Who wrote the line: {}
 Which poet is this line by? {}
 By whom is this? {}
 = Name the poet of the line: {}
 - {1} wrote the line: {0}
 - This line is by {1}: {0}
play
 Which play is this line from? {}
 In which work of Shakespeare is this said? {}
 Shakespeare has this in what work? {}
 = Name the play that holds the line: {}
 - This line is from {1}: {0}
 - {1} holds the line: {0}
"""


def _relations(table: str) -> Mapping[str, Relation]:
    """A name at the margin, then ways to ask, the held-out one with ``=``, and statements."""
    found: dict[str, tuple[list[str], list[str]]] = {}
    asks: list[str] = []
    states: list[str] = []
    for line in table.strip().splitlines():
        if not line.startswith(" "):
            asks, states = found.setdefault(line, ([], []))
        elif line.startswith(" - "):
            states.append(line.removeprefix(" - "))
        else:
            asks.append(line.strip().removeprefix("= "))
    return {
        name: Relation(name, tuple(asked), tuple(stated)) for name, (asked, stated) in found.items()
    }


RELATIONS = _relations(_TABLE)
