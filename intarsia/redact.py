"""Secrets kept out of messages, files and logs: the key of a request, and user, password and query of addresses."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from urllib.parse import quote

__all__ = ["MASK", "hiding", "is_key", "redacted", "texts_in", "without_key", "without_query"]

MASK = "***"
# Shorter keys are parts of ordinary words: they are hidden only where they are all of a value.
_SHORTEST = 6
_MOST_PARTS = 1000
_LONGEST_ADDRESS = 60
_USERINFO = re.compile(r"^[^/?#]*@")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:)?/{1,2}")

# A text that is an address as a whole ("https:/" too: what is misspelled is quoted most often), or holds one.
_WHOLE_ADDRESS = re.compile(r"\s*[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
_ADDRESS_QUERY = re.compile(r"(://[^\s?#'\"]*)[?#][^\s'\"]+")
_AUTHORITY = re.compile(r"//[^\s'\"]+")
# The same without a scheme: "example.org/a.png?key=…", "user:password@example.org/a.png". "what?.png" is a name.
_QUERY = re.compile(r"\?(?!…)(?:[^\s?='\"]*=|[\w%.~+/-]{16,})[^\s'\"]*")
_LOGIN = re.compile(r"[^\s/@:'\"]+:[^\s/@'\"]+@(?=[\w.-]+[/:])")

_KEYS: ContextVar[tuple[str, ...]] = ContextVar("intarsia_keys", default=())


@contextmanager
def hiding(key: object) -> Iterator[None]:
    """Within it, and in this thread, no error's message shows ``key``: text, a number, or a list of them."""
    token = _KEYS.set(_texts(key))
    try:
        yield
    finally:
        _KEYS.reset(token)


def without_key(text: str) -> str:
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


def redacted(text: str, mark: str = "…") -> str:
    """``text`` without the keys that are hidden now, nor what may be one in an address.

    Of an address, that is user and password, query and fragment.

    Every message, file and stream shows addresses in this form. What only looks like an address, as one that is
    misspelled does, is treated as one.

    Args:
        mark: put in the place of what was left out; "" leaves no trace of it.
    """
    text = without_key(text)
    if not any(sign in text for sign in "?#@:"):
        return text

    query = f"?{mark}" if mark else ""
    if _WHOLE_ADDRESS.match(text):
        end = min((index for index in map(text.find, "?#") if index >= 0), default=len(text))
        scheme, slashes, location = text[:end].partition("//")
        ending = query if end < len(text) else ""
        text = scheme + slashes + _without_login(location, mark) + ending
    else:
        text = _ADDRESS_QUERY.sub(lambda match: match[1] + query, text)
    text = _AUTHORITY.sub(lambda match: "//" + _without_login(match[0][2:], mark), text)
    text = _LOGIN.sub(f"{mark}@" if mark else "", text)
    return _QUERY.sub(query, text)


def _without_login(location: str, mark: str) -> str:
    """Host, port and path of an address without user and password, also where these have a slash in them."""
    authority, slash, path = location.partition("/")
    login = f"{mark}@" if mark else ""
    if "@" in authority:
        return login + authority.rpartition("@")[2] + slash + path
    host, colon, port = authority.rpartition(":")
    if not colon or not port or port.isdigit() or "]" in port:
        return location
    return login + path.rpartition("@")[2] if "@" in path else host + slash + path


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
    text = without_key(text)
    scheme = _SCHEME.match(text)
    start = scheme[0] if scheme else ""
    rest = _USERINFO.sub("", text[len(start) :], count=1)
    host = re.split(r"[?#]" if with_path else r"[/?#\\]", rest, maxsplit=1)[0]
    address = start + host
    if len(address) > _LONGEST_ADDRESS:
        return address[:_LONGEST_ADDRESS] + "…"
    return address if address == text else f"{address}…"


def _texts(key: object) -> tuple[str, ...]:
    """The texts in a key, the longest first: parts of one may be in another."""
    texts: list[str] = []
    parts = [key]
    while parts and len(texts) < _MOST_PARTS:
        part = parts.pop()
        if isinstance(part, dict):
            parts += list(part.values())[:_MOST_PARTS]
        elif isinstance(part, list | tuple):
            parts += part[:_MOST_PARTS]
        elif isinstance(part, str):
            texts += {part, part.strip()}
        elif isinstance(part, int | float) and not isinstance(part, bool):
            texts += _digits(part)
    return tuple(sorted({text for text in texts if text.strip()}, key=len, reverse=True))


def _digits(number: float) -> list[str]:
    try:
        return [repr(number)]
    except ValueError:  # more digits than Python writes, and so than any message shows
        return []


def texts_in(value: object) -> Iterator[str]:
    """Every text in a value of JSON, names of fields included: where a key may stand that belongs elsewhere."""
    parts = [value]
    while parts:
        part = parts.pop()
        if isinstance(part, str):
            yield part
        elif isinstance(part, Mapping):
            parts += part.keys()
            parts += part.values()
        elif isinstance(part, list | tuple):
            parts += part
