"""Requests, results and engines as one line, and as HTML with their images in notebooks."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from PIL import Image

__all__ = ["brief", "images_as_html", "one_liner"]

_LONGEST = 60
_SIDE = 512
"""Pixels of an image's longer side in a notebook: it is stored in the notebook's file."""


def one_liner(kind: str, values: Mapping[str, object]) -> str:
    """``Kind(name=value, …)``: long texts cut, images and other large values by their type and size."""
    pairs = [f"{name}={brief(value)}" for name, value in values.items()]
    return f"{kind}({', '.join(pairs)})"


def images_as_html(images: Iterable[Image.Image], captions: Sequence[str], side: int = _SIDE) -> str:
    """Images side by side, as PNG in the page itself, with a line under each.

    Args:
        side: pixels of the longer side that an image has at most.
    """
    figures = []
    for image, caption in zip(images, captions, strict=True):
        style = "display:inline-block;margin:4px"
        source = f"data:image/png;base64,{_as_base64(image, side)}"
        figures.append(
            f'<figure style="{style}"><img src="{source}"><figcaption>{html.escape(caption)}</figcaption></figure>'
        )
    return "".join(figures)


def brief(value: Any) -> str:
    """A value in at most 60 characters; images, arrays and bytes by their type and size."""
    shape = getattr(value, "shape", None)
    if isinstance(value, Image.Image):
        return f"<{value.mode} image {value.width}x{value.height}>"
    if isinstance(value, bytes | bytearray):
        return f"<{len(value)} bytes>"
    if shape is not None:
        return f"<array {'x'.join(map(str, shape))}>"
    text = repr(value[:_LONGEST] if isinstance(value, str) else value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _as_base64(image: Image.Image, side: int) -> str:
    small = image.copy()
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
