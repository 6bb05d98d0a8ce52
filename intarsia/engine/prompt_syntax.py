"""Prompt syntax of other tools that is not read: what to say about it.

A plain prompt is encoded as it is written. Weights, tags of LoRAs and the like would be words like any others, so a
warning names them; of a prompt with weights it names what other tools have beside these. Ordinary writing ("a cat
(sitting)", "[sic]", "f(x)", "16:9", ":-)", "PRISON BREAK") must not be taken for syntax: each form has a pattern of its
own, and a form that looks like ordinary writing is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from intarsia.printable import printable

__all__ = ["notes_on", "notes_on_weighted"]

_EXAMPLES = 3
_READ = 10_000  # characters; text encoders read 77 tokens
_SHOWN = 40
# Whole numbers are weights only right behind a letter, and fractions not behind a digit: "16:9" and "2:1.5" are none.
_WEIGHT = r"(?:(?<=[^\W\d]):[-+]?[0-9]{1,2}|(?<!\d):\s*[-+]?[0-9]{0,3}\.[0-9]+)\s*"

# No pattern can be made to try one place of a long prompt again and again: what repeats excludes what ends it.
_FORMS = {
    "tags": re.compile(r"<(?:lora|lyco|locon|loha|hypernet|hypernetwork)\s*:[^<>]+>", re.IGNORECASE),
    "embeddings": re.compile(r"\bembedding:[^\s,:;()<>\[\]]+", re.IGNORECASE),
    "weights": re.compile(rf"[(\[][^()\[\]:]*(?::[^()\[\]:]*){{0,2}}?{_WEIGHT}[)\]]"),
    "nested brackets": re.compile(r"\(\([^()]+\)\)|\[\[[^\[\]]+\]\]|\{\{[^{}]+\}\}"),
    "choices": re.compile(r"\{[^{}|]*\|[^{}]*\}|\[[^\[\]|]+\|[^\[\]]+\]"),
    "wildcards": re.compile(r"(?<!\w)__[^\W_](?:[^\W_]|[-/*. ]|_(?!_))*__(?!\w)"),
    "blends": re.compile(r"\([^()]+\)(?:\+\+|--)|\)\.(?:and|blend|swap)\("),
    "options": re.compile(r"(?<!\S)--(?:ar|aspect|chaos|no|niji|q|quality|s|seed|steps|stylize|style|v)(?=\s|$)"),
}
_FORMS_BESIDE_WEIGHTS = {
    "tags": re.compile(r"<(?:hypernet|hypernetwork|locon|loha)\s*:[^<>]+>", re.IGNORECASE),
    "edits": re.compile(rf"\[[^()\[\]:]*(?::[^()\[\]:]*){{0,2}}?{_WEIGHT}\]"),
    **{name: _FORMS[name] for name in ("choices", "wildcards", "blends", "options")},
}
_BREAK = re.compile(r"(?<![\w\"'])BREAK(?![\w\"'])")
_NEAR = 40  # characters in which the words beside BREAK are looked for


def notes_on(field: str, text: str) -> tuple[str, ...]:
    """One sentence about what in a plain prompt is another tool's syntax, or none."""
    text = text[:_READ]
    forms = _found(text, _FORMS)
    if any(_is_alone(match, text) for match in _BREAK.finditer(text)):
        forms.append("BREAK")
    return _sentence(f"{field}: read as plain text, as prompts have no syntax here", forms)


def notes_on_weighted(field: str, text: str) -> tuple[str, ...]:
    """The same of a prompt whose weights, ``BREAK`` and tags of LoRAs are read."""
    forms = _found(text[:_READ], _FORMS_BESIDE_WEIGHTS)
    return _sentence(f"{field}: read as text, as there is no such syntax here", forms)


def _found(text: str, patterns: Mapping[str, re.Pattern[str]]) -> list[str]:
    forms = []
    for pattern in patterns.values():
        matches = [match[0] for match in pattern.finditer(text)]
        forms += [form for form in matches if any(map(str.isalpha, form))]
    return forms


def _sentence(beginning: str, forms: Sequence[str]) -> tuple[str, ...]:
    if not forms:
        return ()
    examples = list(dict.fromkeys(map(_short, forms)))
    listed = ", ".join(examples[:_EXAMPLES])
    if len(examples) > _EXAMPLES:
        listed += f" and {len(examples) - _EXAMPLES} more"
    return (f"{beginning}: {listed}",)


def _is_alone(match: re.Match[str], text: str) -> bool:
    """Whether BREAK is a word among others that are not in capitals: "PRISON BREAK" is a title."""
    start, end = match.span()
    before = text[max(0, start - _NEAR) : start].split()[-1:]
    after = text[end : end + _NEAR].split()[:1]
    neighbors = [word for word in before + after if "BREAK" not in word]
    return not any(word.isupper() and _has_letters(word) for word in neighbors)


def _has_letters(word: str) -> bool:
    return sum(map(str.isalpha, word)) > 1


def _short(form: str) -> str:
    text = printable(form)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
