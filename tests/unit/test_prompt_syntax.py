"""What is said of other tools' prompt syntax, and what is ordinary writing."""

from __future__ import annotations

import time

import pytest

import intarsia
from intarsia.engine.prompt_syntax import notes_on
from tests.unit.endpoint_table import IMAGE, MASK, MINIMAL

SYNTAX = [
    "a cat <lora:ink:0.8>", "<LORA:x:1>", "<lyco:x:0.5>", "<hypernet:foo:1>", "a (red:1.3) cat", "(red : 1.3)",
    "(red:2)", "(red:.5)", "(red:-1)", "(red, blue:1.2)", "(1girl:1.2)", "(a red (big:1.2) cat:1.3)", "[a:b:0.5]",
    "[a:0.5]", "[a::0.5]", "[from:to:10]", "((x))", "(((x)))", "((a cat))", "[[x]]", "{{x}}", "a BREAK b", "BREAK",
    "x\nBREAK\ny", "a cat, BREAK, a", "embedding:EasyNegative", "(embedding:bad:1.2)", "__color__", "__a_b/c__",
    "{a|b}", "{2$$a|b|c}", "[cat|dog]", "(a b)++", "('a','b').blend(0.5, 0.5)", "a cat --ar 16:9",
]  # fmt: skip
WRITING = [
    "", "a cat (sitting)", "[sic]", "f(x)", "f(g(x))", ":-) :) ;( :( :'( <3", "smile :))", "(cute :3)", "(16:9)",
    "(at 10:30)", "[12:30]", "(ratio 2:1)", "(2:1.5)", "(John 3:16)", "10:30 am", "PRISON BREAK poster",
    "COFFEE BREAK", 'it says "BREAK"', "breakfast", "a {red} cat", '{"a": 1}', "{}", "(a) b", "(c) 2024", "[1]",
    "[x]", "(1.5)", "((1))", "((a+b)*c", "array[0]", "C++ book", "notepad++", "____", "a__b__c", "x (y: z)",
    "(see: below)", "5 > 3 < 6", "<b>bold</b>", "a -- b --- c", "http://x.y/(a)", "embedding: a technique", "a|b",
    "||",
]  # fmt: skip


@pytest.mark.parametrize("prompt", SYNTAX)
def test_syntax_is_named(prompt):
    [note] = notes_on("prompt", prompt)
    assert note.startswith("prompt: read as plain text, as prompts have no syntax here: ")


@pytest.mark.parametrize("prompt", WRITING)
def test_ordinary_writing_is_left_alone(prompt):
    assert notes_on("prompt", prompt) == ()


def test_the_sentence_is_one_short_printable_line():
    prompt = " ".join(f"(word{number} \x1b\n{'x' * 100}:1.3)" for number in range(100))
    [note] = notes_on("negative_prompt", prompt)
    assert note.startswith("negative_prompt: ")
    assert note.isprintable()
    assert len(note) < 300
    assert note.endswith(" and 83 more"), "of the first 10,000 characters"


@pytest.mark.parametrize(
    "piece",
    [
        "(",
        "(:",
        "((",
        "((a",
        "{|",
        "[|",
        "__a",
        "<lora:",
        "[a:",
        " BREAK",
        "(a:1.",
        ": ",
        "_",
        "a",
        "embedding:",
        "(a:1",
    ],
)
def test_no_prompt_takes_long(piece):
    began = time.process_time()
    notes_on("prompt", piece * (1_000_000 // len(piece)))
    assert time.process_time() - began < 5  # some milliseconds; minutes where a pattern tries every place again


def test_library_and_replies_say_it_of_both_prompts(empty_registry):
    request = intarsia.InpaintRequest(
        prompt="<lora:ink:1>",
        negative_prompt="((bad))",
        prompt_syntax="plain",
        init_image=IMAGE,
        mask_image=MASK,
        enhance_prompt=True,
        steps=2,
    )
    with intarsia.Engine("null", weights=empty_registry) as engine:
        warnings = engine.run(request).warnings
        tip = engine.reply({**MINIMAL, "prompt": "<lora:ink:1>", "base64": True, "steps": 2}, "realtime")["tip"]
    assert [note.partition(":")[0] for note in warnings] == ["prompt", "negative_prompt"]
    assert "prompt: read as plain text, as prompts have no syntax here: <lora:ink:1>" in tip
