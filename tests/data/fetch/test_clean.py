"""The cleaners on small pages worked out by hand, and what holds for any text whatever."""

import gzip
import unicodedata
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.data.fetch.clean import CLEANERS
from turnout.data.fetch.clean.html import Rules, text_of
from turnout.data.fetch.clean.text import decode, join, tidy, unwrap
from turnout.data.fetch.documents import is_english

GZIPPED = ("devil", "foldoc", "gcide", "jargon")
# The glosses refuse what is no synset: see tasks/test_wordnet.py.
PAGES = sorted(CLEANERS.keys() - {*GZIPPED, "r_strings", "glosses"})
MARKS = (
    *("\n", "\n\n", "   ", "\t", " | ", "{", "}", "*", "- ", "1. ", "===", "[1913 Webster]"),
    *("<p>", "</p>", "<pre>", "</pre>", "<td>", "<li>", "<![", "<!--", "&amp;", "&#0;", "<main>"),
    *("<div id=content>", ".. ", "::", "`", "``", ":a:`b`", "=head1 ", "=over", "L<", "C<<", ">>"),
    *("E<gt>", "E<99999>", ".SH ", ".TP", ".TS", ".TE", ".nf", ".de", ".if \\{", "\\f", "\\("),
    *("\\[u0000]", "\\*[", "\\", "00000 03 n 01 a 0 000"),
)
# Text with much of what the cleaners look for.
MARKED = st.lists(
    st.one_of(
        st.text(max_size=8),
        st.sampled_from(MARKS),
    ),
    max_size=40,
).map("".join)


def clean(name: str, text: str, file: str = "usr/share/a.txt") -> str:
    return "\n---\n".join(tidy(text) for _, text in CLEANERS[name](file, text.encode()))


@given(st.text(alphabet=st.characters()) | MARKED)
def test_tidy_is_idempotent_and_leaves_no_control_characters(text: str) -> None:
    once = tidy(text)
    assert tidy(once) == once
    once.encode()
    assert not [c for c in once if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"]
    assert "\n\n\n" not in once
    assert not [line for line in once.split("\n") if line != line.rstrip()]


@given(MARKED)
def test_unwrap_moves_white_space_alone(text: str) -> None:
    assert "".join(unwrap(text).split()) == "".join(text.split())


@pytest.mark.parametrize("name", PAGES)
@given(text=MARKED)
def test_any_page_comes_out_as_plain_text(name: str, text: str) -> None:
    raw = text.encode(errors="replace")
    for _, found in CLEANERS[name]("usr/share/a.txt", raw):
        plain = tidy(found)
        plain.encode()
        assert not [c for c in plain if unicodedata.category(c) == "Cc" and c not in "\n\t"]


@pytest.mark.parametrize("name", GZIPPED)
@given(text=MARKED)
def test_any_dictionary_comes_out_as_plain_text(name: str, text: str) -> None:
    raw = gzip.compress(text.encode(errors="replace"))
    for _, found in CLEANERS[name]("usr/share/a.dict.dz", raw):
        tidy(found).encode()


@pytest.mark.parametrize("name", ["r_strings", *GZIPPED])
def test_a_cut_file_is_an_error(name: str) -> None:
    whole = zlib.compress(bytes(99)) if name == "r_strings" else gzip.compress(bytes(99))
    raw = b"\0\0\0\x63" + whole if name == "r_strings" else whole
    assert list(CLEANERS[name]("a", raw)) == []
    with pytest.raises(ValueError, match="a: "):
        list(CLEANERS[name]("a", raw[:-6]))


def test_decoding() -> None:
    assert decode("naïve".encode()) == "naïve"
    assert decode(b'<meta charset="iso-8859-2">\xb1') == '<meta charset="iso-8859-2">ą'
    assert decode(b'<meta charset="no-such-set">\xe9') == '<meta charset="no-such-set">é'


def test_paragraphs_are_joined_and_verse_is_not() -> None:
    prose = (
        "Call me Ishmael. Some years ago, never mind how long precisely, having\n"
        "little or no money in my purse, and nothing particular to interest me on\n"
        "shore, I thought I would sail about a little."
    )
    verse = "    To History she'll be no royal riddle,\n    Merely a plain parched pea."
    table = (
        "name      value     what it means here, in a good many words of explanation\nb   c    d"
    )
    assert unwrap(f"{prose}\n\n{verse}\n\n{table}") == "\n\n".join(
        (prose.replace("\n", " "), verse, table)
    )


def test_an_item_goes_on_below_its_own_text() -> None:
    item = "- the first item has a line that is long enough to have been wrapped by\n  its author\n"
    assert unwrap(item + "- the second") == item.replace("\n  ", " ") + "- the second"


def test_no_space_is_put_between_ideographs() -> None:
    assert join("調度", "域") == "調度域"
    assert join("調度", "CPU") == "調度 CPU"
    assert join("한국어", "문서") == "한국어 문서"


def test_html() -> None:
    page = (
        "<head><title>T</title></head><body><nav><ul><li>Home</li></ul></nav><div id=main>"
        "<h1>A &amp; B</h1><p>One <b>two</b>\n three.<div class='x toc'><div>gone</div></div>"
        "<ul><li><p>first</p></li><li>second</li></ul><pre>\n  if x:\n    y\n</pre>"
        "<table><tr><th>a</th><th> </th><th><p>b</p></th></tr><tr><td>1</td><td>2</td></tr></table>"
        "<script>alert()</script></div><p>outside</p></body>"
    )
    assert text_of(page, Rules("main", frozenset({"toc"}))) == (
        "A & B\n\nOne two three.\n\n- first\n- second\n\n  if x:\n    y\n\na | b\n1 | 2"
    )


def test_libreoffice_has_no_frame_and_no_words_for_another_system() -> None:
    page = (
        "<header><p>Help 7.4</p></header><aside>Index</aside><div id='DisplayArea'><h1>Use</h1>"
        "<p>Press <span class='switchinline'><span class='MAC'>Cmd</span><span>Ctrl</span></span>"
        "+A.</p></div><footer><p>debug</p></footer>"
    )
    assert clean("libreoffice", page) == "Use\n\nPress Ctrl+A."


def test_vim() -> None:
    page = (
        "<PRE>*<A NAME='a'></A><B>usr_04.txt</B>* For Vim version 9.0. Last change: 2021\n"
        "====\nIn |<A HREF='c'>chapter</A>| 2 you learned the &quot;x&quot; command.\n</PRE>"
    )
    assert clean("vim", page) == 'In chapter 2 you learned the "x" command.'


def test_rst() -> None:
    page = """\
.. _label:

:mod:`heapq` --- Heaps
======================

.. module:: heapq
   :synopsis: Gone.

See :func:`~os.path.join`, :ref:`the text <label>`, ``code`` and *this*; `a link <http://x>`_ [#f]_
goes on. For example::

   x  =  1
   y = *args

.. note::

   Mind this.

.. function:: push(heap)

   :param heap: a list

.. code-block:: python
   :linenos:

   print()

.. comment
   gone

+------------+---+
| :c:`Name`  | x |
+------------+---+
"""
    assert clean("rst", page) == (
        "heapq --- Heaps\n\nSee join, the text, `code` and this; a link goes on. For example:\n\n"
        "   x  =  1\n   y = *args\n\nNote:\n\n   Mind this.\n\npush(heap)\n\n   heap: a list\n\n"
        "   print()\n\n+------------+---+\n| Name       | x |\n+------------+---+"
    )


def test_pod() -> None:
    page = (
        'code\n\n=head1 A B<bold> name\n\nText of L<perlop/"Quotes"> and\nC<< a -> b >>, '
        "E<lt>E<gt>, L<shown|target>.\n\n  my $x;\n\n=begin html\n\n<p>\n\n=end html\n\n"
        "=over 4\n\n=item * one\n\n=back\n\n=cut\n\nmore code"
    )
    assert clean("pod", page) == (
        "A bold name\n\nText of Quotes in perlop and a -> b, <>, shown.\n\n  my $x;\n\none"
    )


def test_man() -> None:
    page = r""".\" a licence
.TH OPEN 2
.SH NAME
open \- open a \(lqfile\(rq
.de XX
gone
..
.if n \{\
gone
.\}
.SH DESCRIPTION
The
.BR open ()
call uses
.I "two words"
and \fBbold\fP, caf\['e].
.TP
.B \-a
All of it.
.nf
  int  x;
.fi
.TS
l l.
a	T{
b c
T}
.TE
"""
    assert clean("man", page, "open.2") == (
        "NAME\n\nopen - open a “file”\n\nDESCRIPTION\n\nThe open() call uses two words and bold, "
        "café.\n\n-a\n\nAll of it.\n\n  int  x;\n\na b c"
    )
    packed = CLEANERS["man"]("open.2.gz", gzip.compress(page.encode()))
    assert tidy(next(iter(packed))[1]) == clean("man", page, "open.2")


@pytest.mark.parametrize("page", [".so man2/open.2\n", ".Dd today\n.Sh NAME\nx\n"])
def test_man_pages_that_are_no_text_of_their_own(page: str) -> None:
    assert clean("man", page, "a.2") == ""


def test_wordnet() -> None:
    line = '00005930 03 a 02 nano(a) 0 very_small 1 001 @ 00004475 n 0000 | tiny; "nano things"  \n'
    assert clean("wordnet", "  1 licence\n" + line) == 'nano, very small: tiny; "nano things"'


def test_jargon() -> None:
    page = "00-database-short\n     The File\n\nLicence text.\n\nphase\n n.\n\n    A {cycle}.\n"
    raw = gzip.compress(page.encode())
    ((title, text),) = CLEANERS["jargon"]("usr/share/dictd/jargon.dict.dz", raw)
    assert (title, text) == ("jargon: phase", "phase n.\n\nA cycle.")


def test_webster() -> None:
    page = '\nAdject \\Ad*ject"\\, v. t. [L. ad + jac[=e]re.]\n   To add.\n   [1913 Webster]\n'
    ((_, text),) = CLEANERS["gcide"]("gcide.dict.dz", gzip.compress(page.encode()))
    assert text.rstrip() == "Adject, v. t. [L. ad + jacere.]\nTo add."


def test_novels() -> None:
    lines = ["EMMA", "", "By Jane", "", "CHAPTER I", "", "She was handsome."]
    strings = b"".join(
        b"\0\x04\0\x09" + len(line).to_bytes(4, "big") + line.encode() for line in lines
    )
    data = b"X\n\0\0\0\x03" + bytes(8) + b"\0\0\0\x05UTF-8\0\0\0\x10\0\0\0\x07" + strings
    raw = len(data).to_bytes(4, "big") + zlib.compress(data)
    assert list(CLEANERS["r_strings"]("a.rdb", raw)) == [
        ("Emma: EMMA", "EMMA\n\nBy Jane"),
        ("Emma: CHAPTER I", "CHAPTER I\n\nShe was handsome."),
    ]
    with pytest.raises(ValueError, match="not the size"):
        list(CLEANERS["r_strings"]("a.rdb", b"\0\0\0\x05" + raw[4:]))


@pytest.mark.parametrize(
    ("line", "english"),
    [
        ("The value and the name are returned.", True),
        ("Schließt das Fenster, das mit the X überschrieben ist.", False),
        ("Si el usuario for from", True),
        (
            "ファイルをオープンする。the と and は英語の単語である。" + "日本語の文章が続く。" * 20,
            False,
        ),
        ("", False),
    ],
)
def test_english_is_told_by_two_of_its_commonest_words(line: str, english: bool) -> None:
    assert is_english(line) is english
