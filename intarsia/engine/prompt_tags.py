"""LoRAs that are named in a prompt: ``<lora:ID>`` and ``<lora:ID:STRENGTH>``, as other tools have it."""

from __future__ import annotations

import re

from intarsia.engine.request import Lora
from intarsia.errors import RequestError
from intarsia.numbers import number
from intarsia.printable import printable

__all__ = ["lora_tags", "take_lora_tags"]

_TAG = re.compile(r"<(?:lora|lyco)\s*:([^<>]*)>", re.IGNORECASE)
_MOST_STRENGTH = 2.0
_SHOWN = 60


def lora_tags(text: str) -> tuple[str, ...]:
    """What is written in the tags of a prompt, in their order; not checked."""
    return tuple(match[1] for match in _TAG.finditer(text))


def take_lora_tags(field: str, text: str) -> tuple[str, tuple[Lora, ...]]:
    """A prompt without its tags, and the LoRAs that they name, in their order.

    Raises:
        RequestError: a tag without a name, or with something else than one strength that a LoRA may have.
    """
    loras = tuple(_lora(field, match) for match in _TAG.finditer(text))
    if not loras:
        return text, ()
    rest = _TAG.sub("", text)
    return rest.strip(), loras


def _lora(field: str, match: re.Match[str]) -> Lora:
    name, _, strength_text = match[1].partition(":")
    name = name.strip()
    if not name:
        raise _refused(field, match[0], "names no LoRA: write <lora:ID> or <lora:ID:STRENGTH>")
    if not strength_text.strip():
        return Lora(id=name)

    strength = number(strength_text.strip())
    if strength is None and ":" in strength_text:
        raise _refused(field, match[0], "has several strengths: one counts for all networks, <lora:ID:STRENGTH>")
    if strength is None or not abs(strength) <= _MOST_STRENGTH:
        raise _refused(field, match[0], f"must have a strength between -{_MOST_STRENGTH:g} and {_MOST_STRENGTH:g}")
    return Lora(id=name, strength=strength)


def _refused(field: str, tag: str, why: str) -> RequestError:
    shown = printable(tag)
    if len(shown) > _SHOWN:
        shown = shown[: _SHOWN - 1] + "…"
    return RequestError(field, message=f"{field}: {shown} {why}")
