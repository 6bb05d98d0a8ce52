"""EXIF of a file that is written: the input's own, and in formats without text chunks how the image was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from intarsia.former_name import NAME
from intarsia.images.a1111_text import is_parameters
from intarsia.images.embedded import NOTHING, EmbeddedMetadata
from intarsia.images.exif_block import EMPTY, Tag, read_tags, with_tags
from intarsia.images.json_text import as_text, json_in, to_json

__all__ = ["FileTexts", "exif_of", "texts_in"]

_DESCRIPTION, _SOFTWARE, _HISTORY, _COMMENT = 0x010E, 0x0131, 0x9213, 0x9286
_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 0x011A, 0x011B, 0x0128
_PIXELS_ACROSS, _PIXELS_DOWN = 0xA002, 0xA003
_READ = {_DESCRIPTION, _HISTORY, _COMMENT, _X_RESOLUTION, _PIXELS_ACROSS, _PIXELS_DOWN}
_INCH = 2
_UNICODE, _PLAIN = b"UNICODE\0", b"ASCII\0\0\0"


@dataclass(frozen=True)
class FileTexts:
    """What an image's file says beside its pixels.

    Attributes:
        metadata, parameters: how it was made, as JSON and as other tools write it; None says nothing.
        embedded: of the file that it was made from.
        size: ``(width, height)`` of the image.
    """

    metadata: Mapping[str, Any] | None
    parameters: str | None
    embedded: EmbeddedMetadata = NOTHING
    size: tuple[int, int] = (0, 0)

    @property
    def of_input(self) -> FileTexts:
        """What the input's file said alone."""
        return replace(self, metadata=None, parameters=None)


def exif_of(texts: FileTexts, *, with_density: bool = False) -> bytes:
    """The EXIF block of a file; b"" where there is nothing to say.

    ``parameters`` are the UserComment, in the UTF-16 form that other tools write and read; ``metadata`` are JSON in
    ImageHistory, which holds ASCII only. What the input's own file says of how *it* was made is not copied.

    Args:
        with_density: put it in here, for formats that have no other place for it.
    """
    main: dict[int, Tag | None] = {}
    own: dict[int, Tag | None] = {}
    if texts.metadata is not None:
        main[_HISTORY] = Tag.text(to_json(texts.metadata, ascii_only=True))
    if texts.parameters is not None:
        own[_COMMENT] = Tag.raw(_UNICODE + as_text(texts.parameters).encode("utf-16-be"))
    if main or own:
        main[_SOFTWARE] = Tag.text(NAME)

    block = texts.embedded.exif or EMPTY
    tags = read_tags(block, _READ)
    main = _removed(tags) | _density(tags, texts.embedded.dpi if with_density else None) | main
    own = {tag: None for tag in (_COMMENT,) if is_parameters(_comment_text(tags.get(tag)))} | _size(tags, texts) | own
    if not texts.embedded.exif and not main and not own:
        return b""
    return with_tags(block, main, own) if main or own else block


def texts_in(exif: bytes) -> tuple[str | None, str | None]:
    """The JSON and the ``parameters`` text that a block holds; None for each that it does not.

    Files of earlier versions have the JSON in ImageDescription.
    """
    try:
        tags = read_tags(exif, _READ)
    except ValueError:
        return None, None
    texts = [_ascii(tags.get(tag)) for tag in (_HISTORY, _DESCRIPTION)]
    json = next((text for text in texts if text and json_in(text) is not None), None)
    return json, _comment_text(tags.get(_COMMENT)) or None


def _removed(tags: Mapping[int, bytes]) -> dict[int, Tag | None]:
    """Tags of the input that say how it was made here."""
    return {tag: None for tag in (_HISTORY, _DESCRIPTION) if json_in(_ascii(tags.get(tag))) is not None}


def _density(tags: Mapping[int, bytes], dpi: tuple[float, float] | None) -> dict[int, Tag | None]:
    """The density where the block does not have one already."""
    if dpi is None or _X_RESOLUTION in tags:
        return {}
    across, down = dpi
    return {_X_RESOLUTION: Tag.ratio(across), _Y_RESOLUTION: Tag.ratio(down), _RESOLUTION_UNIT: Tag.short(_INCH)}


def _size(tags: Mapping[int, bytes], texts: FileTexts) -> dict[int, Tag | None]:
    """The image's own size where the block says one."""
    width, height = texts.size
    sizes = {_PIXELS_ACROSS: width, _PIXELS_DOWN: height}
    return {tag: Tag.long(size) for tag, size in sizes.items() if tag in tags and size}


def _ascii(value: bytes | None) -> str:
    return (value or b"").rstrip(b"\0").decode("utf-8", "replace")


def _comment_text(value: bytes | None) -> str:
    """A UserComment's text, whose first eight bytes say how it is encoded; UTF-16 in the order that gives letters."""
    head, body = (value or b"")[:8], (value or b"")[8:]
    if head == _PLAIN:
        return _ascii(body)
    if head != _UNICODE:
        return ""
    zeros_first = body[::2].count(0) >= body[1::2].count(0)
    return body.decode("utf-16-be" if zeros_first else "utf-16-le", "replace")
