"""What strangers write cannot act on a terminal, or break a line in two."""

from __future__ import annotations

import json
import unicodedata

import pytest

from intarsia.printable import printable, printable_json

ACTING = [
    *map(chr, range(0x20)), "\x7f", *map(chr, range(0x80, 0xA0)), "\u061c", "\u200e", "\u200f", "\u2028", "\u2029",
    *map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A)), "\ud83d", "\udcff",
]  # fmt: skip


@pytest.mark.parametrize("character", ACTING, ids=ascii)
def test_what_a_terminal_acts_upon_is_an_escape(character):
    text = printable(f"a{character}b")
    assert text.isprintable()
    assert text[0] + text[-1] == "ab"
    assert text[1:-1].encode("ascii").decode("unicode_escape") == character
    made = printable_json({character: [character]})
    assert all(each == "\n" or each.isprintable() for each in made)
    assert json.loads(made) == {character: [character]}
    line = printable_json({character: [character]}, indent=None)
    assert line.isprintable()
    assert json.loads(line) == {character: [character]}


def test_how_escapes_look():
    assert printable("\x1b]0;owned\x07") == "\\x1b]0;owned\\x07"
    assert printable("gpj\u202e.exe\x9b2J\r\n\t") == "gpj\\u202e.exe\\x9b2J\\r\\n\\t"


def test_every_other_character_stays():
    """All bidirectional controls and separators are among those above; joiners of emoji and letters are not."""
    for text in ("", "naïve café", "日本語 🧑‍🚀 ไทย", "a\u00a0b \\x1b", "C:\\new"):
        assert printable(text) == text
        assert json.loads(printable_json(text)) == text
    controls = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI", "B"}
    for code in range(0x110000):
        character = chr(code)
        if unicodedata.bidirectional(character) in controls or unicodedata.category(character) in ("Cc", "Zl", "Zp"):
            assert printable(character) != character
