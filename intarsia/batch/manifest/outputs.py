"""Names of a row's outputs in the output folder."""

from __future__ import annotations

import os
import re
import unicodedata
from typing import Any

from intarsia.batch.manifest.folders import SUFFIXES
from intarsia.batch.manifest.ids import split_id
from intarsia.errors import RequestError, shown
from intarsia.former_name import FORMER, NAME
from intarsia.images.output_names import output_names

__all__ = ["checked_outputs", "default_output", "folded", "is_encodable"]

_LONGEST_NAME = 255
# Results, reports, contact sheets, claims, locks, notes of actors, unfinished files: of this version and of later ones.
_OWN = re.compile(
    rf"results.*\.jsonl|report.*\.json|sheet\.html|sheet-files|\.({NAME}|{FORMER})-.*",
    re.DOTALL,
)


def default_output(identifier: str, suffix: str) -> str:
    """The id as a path inside the folder, with our extension for an image's own: ``../a/b.jpg`` → ``a/b.png``.

    Of an address it is the last component. The hash of an id that was shortened stays with the name.
    """
    text, mark = split_id(identifier)
    if "://" in text:
        _, _, address = text.partition("://")
        _, _, path = address.partition("/")
        _, _, text = path.rpartition("/")

    parts = [part for part in text.split("/") if part not in ("", ".", "..")]
    if not parts and not mark:
        raise RequestError("output", message=f"the id {shown(identifier)} gives no file name; output is required")

    # A dot alone makes no extension: "v1.5" stays whole.
    *folders, last = parts or [""]
    stem, ending = os.path.splitext(last)
    name = stem if ending.lower() in SUFFIXES else last
    marked = "-".join(filter(None, (name, mark)))
    return "/".join((*folders, f"{marked}.{suffix}"))


def checked_outputs(output: Any, samples: Any, suffix: str) -> tuple[str, ...]:
    """The files of a row, one for each sample, relative to the output folder.

    Raises:
        RequestError: not a path inside the folder, a name that is too long, or one that the runner's own files have.
        OutputError: an extension of no known format.
    """
    if not isinstance(output, str) or not output or "\0" in output or not is_encodable(output):
        raise RequestError("output", output, "a path in the output folder")

    # Plain strings: pathlib took half of the time that the check of a finished run takes.
    parts = [part for part in output.split("/") if part not in ("", ".")]
    if output.startswith("/") or ".." in parts or not parts or output.endswith("/"):
        raise RequestError("output", output, "a path inside the output folder")

    *folders, last = parts
    stem, ending = os.path.splitext(last)
    count = samples if isinstance(samples, int) and 1 <= samples <= 4 else 1  # the request refuses anything else
    names = output_names(stem, count, ending or suffix)
    for part in (*folders, *names):
        _check_name(part, output)
    return tuple("/".join((*folders, name)) for name in names)


def _check_name(part: str, output: str) -> None:
    """Raise :class:`RequestError` for a part of an output's path that is too long, or one of the runner's own names."""
    if len(part.encode()) > _LONGEST_NAME:
        raise RequestError("output", output, f"of names with at most {_LONGEST_NAME} bytes")
    if _OWN.fullmatch(folded(part)):
        message = f"output must not have the name of a file of the batch runner's own in it: {shown(part)}"
        raise RequestError("output", message=message)


def folded(name: str) -> str:
    """One text for all names that some file systems take for one: in any case, composed or decomposed."""
    if name.isascii():
        return name.lower()
    composed = unicodedata.normalize("NFC", name)
    return unicodedata.normalize("NFC", composed.casefold())


def is_encodable(text: str) -> bool:
    """Whether a file can hold it: JSON can bring in halves of surrogate pairs."""
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
