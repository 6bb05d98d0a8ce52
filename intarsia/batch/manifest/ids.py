"""Ids of rows as files, reports and messages may hold them: short, and without the keys of an address.

An id goes into results, claims, reports and the names of outputs. One that is an address loses user, password, query
and fragment there, and one that is an image its content; a hash of all of it takes their place, so that ids stay as
many as they were. What comes out of :func:`public_id` goes through it again unchanged.
"""

from __future__ import annotations

import hashlib
import re

from intarsia.redact import redacted

__all__ = ["ADDRESS", "inline_id", "public_id", "split_id"]

ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://|data:", re.IGNORECASE)
"""How an address begins, one that holds its own data among them."""

_INLINE = "inline"
_HASHED = re.compile(r"(.*) \(([0-9a-f]{12})\)", re.DOTALL)
_LOGIN = re.compile(r"//[^/?#]*@")


def public_id(text: str) -> str:
    """An id without what may be a key: ``https://example.org/a.png?key=1`` → ``https://example.org/a.png (77d7…)``."""
    if text[:5].lower() == "data:":
        return inline_id(text)
    short = redacted(text, mark="")
    # Passwords are short enough to be guessed from a hash, and no address that has one is read anyway.
    if short == text:
        return text
    return f"{short} ({_hash(_LOGIN.sub('//@', text))})"


def inline_id(text: str) -> str:
    """The id of an image that is written out in the row itself."""
    return f"{_INLINE} ({_hash(text)})"


def split_id(identifier: str) -> tuple[str, str]:
    """An id without its hash, and the hash; "" where it has none."""
    match = _HASHED.fullmatch(identifier)
    return (match[1], match[2]) if match else (identifier, "")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
