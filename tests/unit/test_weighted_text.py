"""Prompts with weights: each form, and any text."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intarsia.weighted_text import MOST_WEIGHT, Piece, read_weighted

CASES = {
    "a cat": [("a cat", 1)],
    "": [],
    "(x)": [("x", 1.1)],
    "((x))": [("x", 1.21)],
    "[x]": [("x", 1 / 1.1)],
    "[[x]]": [("x", 1 / 1.21)],
    "([x])": [("x", 1)],
    "(x:1.3)": [("x", 1.3)],
    "(x : .5 )": [("x ", 0.5)],
    "(x:-1)": [("x", -1)],
    "(x:2.)": [("x", 2)],
    "a (red:1.2) cat": [("a ", 1), ("red", 1.2), (" cat", 1)],
    "(a (b:1.5) c)": [("a ", 1.1), ("b", 1.65), (" c", 1.1)],
    "(a (b:1.5) c:0.5)": [("a ", 0.5), ("b", 0.75), (" c", 0.5)],
    "a [b (c:2)]": [("a ", 1), ("b ", 1 / 1.1), ("c", 2 / 1.1)],
    r"\(x\)": [("(x)", 1)],
    r"\[x\]": [("[x]", 1)],
    r"(\(x\):1.5)": [("(x)", 1.5)],
    r"\\(x)": [("\\", 1), ("x", 1.1)],
    r"a\b": [(r"a\b", 1)],
    "a (b": [("a ", 1), ("b", 1.1)],
    "a [b": [("a ", 1), ("b", 1 / 1.1)],
    "a) b]": [("a) b]", 1)],
    "at 10:30": [("at 10:30", 1)],
    "a :1.2) b": [("a :1.2) b", 1)],
    "(a:b)": [("a:b", 1.1)],
    "(a:1.2.3)": [("a:1.2.3", 1.1)],
    "(a:1e3)": [("a:1e3", 1.1)],
    "[a:0.5]": [("a:0.5", 1 / 1.1)],
    # not nested, but each pair has a place of its own
    "(a [b) c]": [("a ", 1.1), ("b", 1), (" c", 1 / 1.1)],
}


@pytest.mark.parametrize("text", CASES)
def test_weights(text):
    [pieces] = read_weighted(text)
    assert [piece.text for piece in pieces] == [part for part, _ in CASES[text]]
    assert [piece.weight for piece in pieces] == pytest.approx([weight for _, weight in CASES[text]], abs=1e-8)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a BREAK b", [["a"], ["b"]]),
        ("a\nBREAK\nb", [["a"], ["b"]]),
        ("a,BREAK,b", [["a,"], [",b"]]),
        ("BREAK a", [[], ["a"]]),
        ("a BREAK", [["a"], []]),
        ("a BREAK BREAK b", [["a"], [], ["b"]]),
        ("(a BREAK b)", [["a"], ["b"]]),
        ("BREAKFAST break", [["BREAKFAST break"]]),
    ],
)
def test_breaks(text, expected):
    assert [[piece.text for piece in section] for section in read_weighted(text)] == expected


def test_weights_go_on_behind_a_break():
    assert read_weighted("(a BREAK b:1.4)") == ((Piece("a", 1.4),), (Piece("b", 1.4),))


@pytest.mark.parametrize("text", ["(" * 10_000 + "x", "(x:" + "9" * 500 + ")", "((x:1000):1000)"])
def test_weights_are_bounded(text):
    [[*_, piece]] = read_weighted(text)
    assert piece == Piece("x", MOST_WEIGHT)


@given(
    st.lists(st.sampled_from([*"()[]\\:.,-+ a1\n", ":1.2)", "BREAK", ":", "é", "\0", "٣"]), max_size=60).map("".join)
)
def test_any_text_has_a_reading(text):
    sections = read_weighted(text)
    for section in sections:
        for piece in section:
            assert piece.text
            assert -MOST_WEIGHT <= piece.weight <= MOST_WEIGHT

    # what is left out is brackets that weigh, their weights, backslashes, BREAK and the blanks around it
    letters = "".join(piece.text for section in sections for piece in section)
    assert sorted(re.sub(r"[^aé\0٣]", "", letters)) == sorted(re.sub(r"[^aé\0٣]", "", text))


@given(st.text(max_size=200))
def test_text_without_syntax_is_left_as_it_is(text):
    plain = re.sub(r"[()\[\]\\]", "", text).replace("BREAK", "")
    expected = ((Piece(plain),),) if plain else ((),)
    assert read_weighted(plain) == expected


@pytest.mark.every(4)
@pytest.mark.parametrize(
    "piece", ["(", "[", ")", ":1.2)", "(a:1.2)", ":", ": ", ":1", ": 1 ", "\\", " BREAK", " ", "(["]
)
def test_time_grows_with_the_length(piece):
    began = time.process_time()
    read_weighted(piece * (100_000 // len(piece)))
    assert time.process_time() - began < 10  # some tenths of a second; hours where each place is tried again and again
