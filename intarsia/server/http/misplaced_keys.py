"""API keys in fields that are none for a key: prompts and the like are stored, logged and given back, a key is not."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from intarsia.errors import RequestError
from intarsia.redact import texts_in
from intarsia.server.http.keys import presented_keys

__all__ = ["refuse_misplaced_keys"]

# Characters of a key that is looked for. A server without keys is sent anything for one, also an ordinary word.
_SHORTEST = 6
_SHORTEST_UNCHECKED = 16

_OWN_FIELD = "key"
_HEADERS = ("idempotency-key",)


def refuse_misplaced_keys(
    body: Mapping[str, object], headers: Mapping[str, str], *, in_body: bool, checked: bool
) -> None:
    """Refuse a request that has its own key somewhere else too, before anything of it is kept.

    Args:
        headers: by lower-case names.
        in_body: the API takes the key in the body's field ``key``, where it is in its place.
        checked: the server has keys, so that what was presented is one.

    Raises:
        RequestError: names the field or the header, and nothing of the key.
    """
    shortest = _SHORTEST if checked else _SHORTEST_UNCHECKED
    presented = [key for key in presented_keys(body if in_body else None, headers) if len(key) >= shortest]
    forms = {form for key in presented for form in (key, quote(key), quote(key, safe=""))}
    if not forms:
        return

    fields = {name: value for name, value in body.items() if not (in_body and name == _OWN_FIELD)}
    places = [*fields.items(), *((name, headers[name]) for name in _HEADERS if name in headers)]
    for name, value in places:
        if any(form in text for text in texts_in(value) for form in forms):
            raise RequestError(name, message=f"{name} has the API key in it; send the key as key or in a header alone")
        if any(form in name for form in forms):
            message = "the name of a field has the API key in it; send the key as key or in a header alone"
            raise RequestError(_OWN_FIELD, message=message)
