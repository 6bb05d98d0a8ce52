"""Documented JSON in, documented JSON out: :func:`answer`, which :meth:`Engine.reply` calls."""

from __future__ import annotations

import base64
import logging
import os
import re
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from intarsia.endpoints.reading import Documented, read
from intarsia.endpoints.replies import (
    Delivery,
    Outcome,
    error_reply,
    in_documented_names,
    meta,
    next_id,
    ran_on,
    success_reply,
)
from intarsia.endpoints.temporary_files import KEPT_HOURS, sweep, temporary_folder
from intarsia.engine.request import InpaintRequest
from intarsia.engine.result import Result, shared_texts
from intarsia.errors import BackendError, IntarsiaError, OutputError, RequestError
from intarsia.images.encode import encode
from intarsia.images.output_names import output_paths
from intarsia.images.save import check_outputs, save_all
from intarsia.printable import printable
from intarsia.redact import hiding, without_key
from intarsia.registry.registry import Registry

__all__ = ["Answer", "Runner", "answer", "server_only", "without_paths"]

log = logging.getLogger("intarsia")

# An absolute path that is no part of an address or of a longer word.
_PATH = re.compile(r"(?<![\w/\\:.])(?:[A-Za-z]:[\\/]|~?/)[^\s'\",;]+")


class Runner(Protocol):
    """What runs a request: :class:`intarsia.Engine`, of which nothing else is needed here."""

    @property
    def registry(self) -> Registry:
        """Where model ids are looked up."""

    def run(self, request: InpaintRequest, *, allow_paths: bool = True) -> Result:
        """Run one request to its end."""


@dataclass(frozen=True)
class Answer:
    """A documented reply, and the error behind it where it is one."""

    reply: dict[str, Any]
    error: IntarsiaError | None = None


def answer(
    engine: Runner, payload: object, endpoint: str | None = None, out: str | os.PathLike[str] | None = None
) -> Answer:
    """Run one documented request. Whatever ``payload`` holds, the answer is a documented reply.

    Replies hold plain JSON values: no traceback, no key, and no path but that of the images. Interrupts
    (KeyboardInterrupt) are not answered but raised.
    """
    with hiding(payload.get("key") if isinstance(payload, Mapping) else None):
        try:
            return Answer(_succeed(engine, payload, endpoint, out))
        except IntarsiaError as exc:
            error: IntarsiaError = exc
            sentence = str(exc) if _may_show_paths(exc, out) else without_paths(str(exc), engine.registry)
        except Exception:  # noqa: BLE001 - reported through the reply, and in full in the log
            log.error("a documented request failed unexpectedly\n%s", _loggable(traceback.format_exc()))
            sentence = "the request failed inside intarsia; its log has the details"
            error = BackendError(sentence)
        return Answer(error_reply(without_key(in_documented_names(sentence))), error)


def without_paths(sentence: str, registry: Registry) -> str:
    """``sentence`` with the last component in place of every local path: replies may leave the machine."""
    if "/" not in sentence and "\\" not in sentence:
        return sentence
    for path in _registry_paths(registry):  # these may have blanks in them
        if len(path.parts) > 1:
            sentence = sentence.replace(str(path), path.name)
    return _PATH.sub(lambda match: _last_component(match[0]), sentence)


def _registry_paths(registry: Registry) -> list[Path]:
    """Every path that entries of the registry have or come from, the longest first."""
    parts = [part for section in registry.parts.values() for part in section.values()]
    paths = set()
    for entry in (*registry, *parts):
        paths |= {entry.path, Path(entry.declared_in)}
    return sorted(paths, key=lambda path: -len(str(path)))


def _last_component(path: str) -> str:
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]


def _may_show_paths(error: IntarsiaError, out: object) -> bool:
    """Whether the paths in an error are the caller's own: in the request, or below the folder that it named."""
    if isinstance(error, OutputError):
        return out is not None
    return isinstance(error, RequestError)


def _loggable(trace: str) -> str:
    """A traceback without the key, and without anything that a terminal acts upon but its own line breaks."""
    return "\n".join(map(printable, without_key(trace).split("\n")))


def _succeed(
    engine: Runner, payload: object, endpoint: str | None, out: str | os.PathLike[str] | None
) -> dict[str, Any]:
    sweep()
    documented = read(payload, endpoint, engine.registry)
    identifier = next_id()
    prefix = str(identifier)

    folder, notes = _folder(documented, out)
    paths = output_paths(prefix, folder, documented.request.samples) if folder else []
    check_outputs(paths)  # before the work, not after it

    result = engine.run(documented.request, allow_paths=False)
    output, warnings = _written(result, paths) if paths else _encoded(result)
    outcome = Outcome(
        seconds=result.timings["total"],
        meta=ran_on(meta(documented, result.plan, prefix), result.meta),
        unsafe=any(result.nsfw),
        warnings=(*documented.warnings, *result.warnings, *server_only(documented), *warnings, *notes),
    )
    delivery = Delivery(id=identifier, output=output, track_id=documented.options.track_id)

    reply = success_reply(documented.endpoint, outcome, delivery)
    reply["tip"] = without_key(without_paths(reply["tip"], engine.registry))
    return reply


def _folder(documented: Documented, out: str | os.PathLike[str] | None) -> tuple[Path | None, tuple[str, ...]]:
    """Where the images go (None: into the reply itself), and what the caller should know about it."""
    if documented.options.base64:
        return None, ()
    if out is not None and not documented.options.temp:
        return Path(out), ()
    try:
        return temporary_folder(), (f"the images lie in a temporary folder and are removed after {KEPT_HOURS} hours",)
    except OSError as exc:
        raise OutputError(f"the temporary folder cannot be made: {exc.strerror}") from exc


def server_only(documented: Documented) -> tuple[str, ...]:
    """Warnings for fields that only a server can act on."""
    warnings = []
    if documented.options.webhook is not None:
        warnings.append("webhook is called by a server only; it was not called")
    if documented.options.instant_response:
        warnings.append("instant_response had no effect: the reply is complete")
    return tuple(warnings)


def _written(result: Result, paths: list[Path]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """All images as files, or none of them; paths and warnings."""
    images = list(zip(result.images, paths, strict=True))
    warnings = save_all(images, [shared_texts(result, sample) for sample in range(len(paths))])
    return tuple(map(str, paths)), warnings


def _encoded(result: Result) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """All images as raw base64 of PNG files, and warnings."""
    files = [encode(image, "PNG", **shared_texts(result, sample)) for sample, image in enumerate(result.images)]
    output = tuple(base64.b64encode(data).decode("ascii") for data, _ in files)
    return output, tuple(note for _, notes in files for note in notes)
