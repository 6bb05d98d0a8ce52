"""Documented requests as rows: the JSON body of one endpoint on each line → a line with the fields of a request.

A body may also have an ``id`` and an ``output``, which no endpoint has. Its key goes no further than here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from intarsia.batch.ledger.error_kinds import classify, sentence
from intarsia.batch.manifest.line import Line
from intarsia.endpoints.answer import server_only
from intarsia.endpoints.reading import Documented, read
from intarsia.errors import IntarsiaError, RequestError
from intarsia.redact import hiding, texts_in, without_key
from intarsia.registry.registry import Registry

__all__ = ["DocumentedLines"]

_OWN = ("id", "output")
_KEY = "key"

# Characters from where on a key is looked for in other fields; a shorter one is an ordinary word, or a part of one.
_SHORTEST = 8


class DocumentedLines:
    """Translates lines.

    Args:
        endpoint: a key of :data:`intarsia.endpoints.reading.ENDPOINTS`.
    """

    def __init__(self, endpoint: str, registry: Registry) -> None:
        self._endpoint = endpoint
        self._registry = registry

    def translated(self, line: Line) -> Line:
        """The line in the library's fields; one that the endpoint would refuse has a problem."""
        if line.problem:
            return line
        own = {name: line.fields[name] for name in _OWN if line.fields.get(name) is not None}
        own.setdefault("id", f"request-{line.number}")
        body = {name: value for name, value in line.fields.items() if name not in _OWN}

        with hiding(body.get(_KEY)):
            try:
                _check_key(body)
                documented = read(body, self._endpoint, self._registry)
            except IntarsiaError as exc:
                return Line(line.number, {"id": own["id"]}, sentence(exc), classify(exc))
            notes = tuple(map(without_key, _notes(documented)))
        return Line(line.number, {**_fields(documented), **own}, notes=notes)


def _fields(documented: Documented) -> dict[str, Any]:
    """The request's fields as JSON has them; without a seed, the row gets the run's for it."""
    values = documented.request.model_dump(mode="json", exclude_unset=True)
    return {name: value for name, value in values.items() if value is not None}


def _notes(documented: Documented) -> list[str]:
    """What is ignored, or has no effect in a batch."""
    notes = [*documented.warnings, *server_only(documented)]
    if documented.options.base64:
        notes.append("base64 had no effect: the images are files")
    return notes


def _check_key(body: Mapping[str, Any]) -> None:
    """Raises :class:`RequestError` where the key stands in another field: prompts go into images and results."""
    key = body.get(_KEY)
    if not isinstance(key, str) or len(key) < _SHORTEST:
        return
    forms = {key, quote(key), quote(key, safe="")}
    for name, value in body.items():
        if name != _KEY and any(form in text for text in texts_in(value) for form in forms):
            raise RequestError(name, message=f"{without_key(name)} has the API key in it; take it out")
        if any(form in name for form in forms):
            raise RequestError(_KEY, message="the name of a field has the API key in it; take it out")
