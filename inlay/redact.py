"""Secrets kept out of messages, replies and logs: the key of a request, and what an address has beside its host."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from urllib.parse import quote

__all__ = ["hiding", "is_key", "redacted", "without_query"]

MASK = "***"
# Shorter keys are parts of ordinary words: they are hidden only where they are all of a value.
_SHORTEST = 6
_MOST_PARTS = 1000
_LONGEST_ADDRESS = 60
_USERINFO = re.compile(r"^[^/?#]*@")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:)?/{1,2}")

_KEYS: ContextVar[tuple[str, ...]] = ContextVar("inlay_keys", default=())


@contextmanager
def hiding(key: object) -> Iterator[None]:
    """Within it, and in this thread, no error's message shows ``key``: text, a number, or a list of them."""
    token = _KEYS.set(_texts(key))
    try:
        yield
    finally:
        _KEYS.reset(token)


def redacted(text: str) -> str:
    """``text`` with three stars in place of the keys that are hidden now, however they are quoted in it."""
    for key in _KEYS.get():
        quoted = repr(key)[1:-1]
        if len(key) >= _SHORTEST:
            for form in {key, quoted, quote(key)}:
                text = text.replace(form, MASK)
        else:
            for mark in "'\"":
                text = text.replace(f"{mark}{quoted}{mark}", f"{mark}{MASK}{mark}")
    return text


def is_key(value: object) -> bool:
    """Whether ``value`` is one of the keys that are hidden now, or holds nothing else."""
    keys = _KEYS.get()
    return bool(keys) and any(text in keys for text in _texts(value))


def without_query(text: str, *, with_path: bool = False) -> str:
    """An address, or what was taken for one, for a message: no user, password, query or fragment.

    Args:
        with_path: False leaves the path out too, which can be a token as well (as in webhooks of chat services).
    """
    if is_key(text):
        return MASK
    text = redacted(text)
    scheme = _SCHEME.match(text)
    start = scheme[0] if scheme else ""
    rest = _USERINFO.sub("", text[len(start) :], count=1)
    host = re.split(r"[?#]" if with_path else r"[/?#\\]", rest, maxsplit=1)[0]
    kept = start + host
    if len(kept) > _LONGEST_ADDRESS:
        return kept[:_LONGEST_ADDRESS] + "…"
    return kept if kept == text else f"{kept}…"


def _texts(key: object) -> tuple[str, ...]:
    """The texts in a key, the longest first: parts of one may be in another."""
    found: list[str] = []
    left = [key]
    while left and len(found) < _MOST_PARTS:
        part = left.pop()
        if isinstance(part, dict):
            left += list(part.values())[:_MOST_PARTS]
        elif isinstance(part, list | tuple):
            left += part[:_MOST_PARTS]
        elif isinstance(part, str):
            found += {part, part.strip()}
        elif isinstance(part, int | float) and not isinstance(part, bool):
            found += _digits(part)
    return tuple(sorted({text for text in found if text.strip()}, key=len, reverse=True))


def _digits(number: float) -> list[str]:
    try:
        return [repr(number)]
    except ValueError:  # more digits than Python writes, and so than any message shows
        return []
