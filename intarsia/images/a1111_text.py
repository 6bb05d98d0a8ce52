"""The ``parameters`` text of AUTOMATIC1111's web UI, taken apart: prompt, negative prompt, ``Key: value`` pairs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Parameters", "is_parameters", "read_parameters"]

_NEGATIVE = "Negative prompt:"
_FEWEST_PAIRS = 3  # by which the web UI tells the last line from a prompt's
_LONGEST = 1 << 20
_KEY = re.compile(r"\w[\w /()-]{0,60}")
_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"')


@dataclass(frozen=True)
class Parameters:
    """What a ``parameters`` text says.

    Attributes:
        pairs: by key, as text; quotes taken off.
    """

    prompt: str
    negative_prompt: str
    pairs: dict[str, str]


def is_parameters(text: str) -> bool:
    """Whether a text is of that form, rather than anybody's comment."""
    return "Steps" in read_parameters(text).pairs


def read_parameters(text: str) -> Parameters:
    """The parts of a text; a text without pairs is a prompt."""
    *lines, last = text[:_LONGEST].strip().split("\n")
    pairs = dict(_pairs(last))
    if len(pairs) < _FEWEST_PAIRS:
        lines.append(last)
        pairs = {}

    prompts: tuple[list[str], list[str]] = ([], [])
    which = 0
    for line in lines:
        words = line.strip()
        if words.startswith(_NEGATIVE):
            which = 1
            words = words.removeprefix(_NEGATIVE).strip()
        prompts[which].append(words)
    prompt, negative = ("\n".join(each) for each in prompts)
    return Parameters(prompt, negative, pairs)


def _pairs(line: str) -> Iterator[tuple[str, str]]:
    """The pairs of a line, separated by commas; a value in quotes may have commas and is JSON."""
    position = 0
    while (colon := line.find(":", position)) >= 0:
        key = line[position:colon].rpartition(",")[2].strip()
        start = colon + 1
        while line[start : start + 1] == " ":
            start += 1

        quoted = _QUOTED.match(line, start)
        end = line.find(",", quoted.end() if quoted else start)
        if end < 0:
            end = len(line)
        if _KEY.fullmatch(key):
            yield key, _unquoted(line[start:end].strip())
        position = end + 1


def _unquoted(value: str) -> str:
    if not _QUOTED.fullmatch(value):
        return value
    try:
        return str(json.loads(value))
    except ValueError:  # a tab, or an escape that JSON does not have
        return value[1:-1]
