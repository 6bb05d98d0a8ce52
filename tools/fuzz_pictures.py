"""Damaged and hostile images, as image and as mask: mutants of small ones in every format that is read."""

from __future__ import annotations

import base64
import io
import random
import zlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from PIL import Image, ImageCms

import intarsia
from tools.fuzz import Attempt

__all__ = ["MEBIBYTES", "SECONDS", "attempts", "seeds"]

SECONDS = 2.0
"""Processor time that one picture may take; they are small, so anything near it is a finding."""
MEBIBYTES = 700
"""Peak memory of the process: what its modules take, and two pictures at the limit of pixels."""


def attempts(rng: random.Random) -> Iterator[Attempt]:
    """Mutants, each sent as a documented request or planned as a request of our own."""
    originals = list(seeds().items())
    plain = base64.b64encode(seeds()["png alpha"]).decode()
    engine = intarsia.Engine("null")
    while True:
        name, data = rng.choice(originals)
        mutant = mutated(data, rng)
        if rng.random() < 0.7:
            mutant = with_checksums(mutant)
        field = rng.choice(("init_image", "mask_image"))
        pictures: dict[str, Any] = {"init_image": plain, "mask_image": plain}
        if rng.random() < 0.5:
            pictures[field] = base64.b64encode(mutant).decode()
            call = partial(_reply, engine, pictures)
        else:
            pictures[field] = mutant
            call = partial(_plan, pictures)
        yield Attempt(name, call, mutant)


def _reply(engine: intarsia.Engine, pictures: dict[str, str]) -> str:
    body = {
        "model_id": "intarsia-tiny",
        "prompt": "x",
        "width": 64,
        "height": 64,
        "steps": 2,
        "base64": True,
        **pictures,
    }
    reply = engine.reply(body, "community")
    if "failed inside intarsia" in str(reply.get("message", "")):
        raise AssertionError(reply["message"])
    return f"reply: {reply['status']}"


def _plan(pictures: dict[str, Any]) -> str:
    intarsia.plan(intarsia.InpaintRequest(steps=2, seed=1, **pictures))
    return "planned"


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One to eight changes: bytes overwritten, taken out, repeated, put in, or the end cut off."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        # Headers decide more than pixels do.
        at = rng.randrange(min(len(changed), 200) if rng.random() < 0.6 else len(changed)) if changed else 0
        length = rng.choice((1, 1, 2, 4, 16))
        match rng.randrange(6):
            case 0:
                changed[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                changed[at : at + length] = rng.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * length
            case 2:
                del changed[at : at + length]
            case 3:
                changed[at:at] = changed[at : at + length * rng.choice((1, 4, 64))]
            case 4:
                changed[at:at] = rng.randbytes(length)
            case 5:
                del changed[rng.randrange(len(changed) + 1) :]
    return bytes(changed)


def with_checksums(data: bytes) -> bytes:
    """A PNG with the right checksums, so that what is behind them is reached; anything else as it is."""
    fixed, position = bytearray(data), 8
    while data.startswith(b"\x89PNG") and position + 12 <= len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if end > len(data):
            break
        fixed[end - 4 : end] = zlib.crc32(data[position + 4 : end - 4]).to_bytes(4, "big")
        position = end
    return bytes(fixed)


def seeds() -> dict[str, bytes]:
    """Small images in every format, with profiles, orientation, transparency and several frames."""
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (18, 24, 3), dtype=np.uint8))
    gray, deep = colour.convert("L"), Image.fromarray(rng.integers(0, 65536, (18, 24), dtype=np.uint16))
    alpha = colour.copy()
    alpha.putalpha(gray)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down: the size stays
    marked = {"icc_profile": profile, "exif": exif.tobytes()}
    frames = {"save_all": True, "append_images": [gray.convert("RGB")]}
    return {
        "png": _encoded(colour, "PNG", **marked),
        "png palette": _encoded(colour.quantize(8), "PNG", transparency=3),
        "png alpha": _encoded(alpha, "PNG"),
        "png 16": _encoded(deep, "PNG"),
        "png 1": _encoded(gray.convert("1"), "PNG"),
        "apng": _encoded(colour, "PNG", **frames),
        "jpeg": _encoded(colour, "JPEG", **marked),
        "jpeg scans": _encoded(colour, "JPEG", progressive=True),
        "jpeg gray": _encoded(gray, "JPEG"),
        "jpeg cmyk": _encoded(colour.convert("CMYK"), "JPEG"),
        "webp": _encoded(colour, "WEBP", **marked),
        "webp lossless": _encoded(alpha, "WEBP", lossless=True),
        "webp frames": _encoded(colour, "WEBP", **frames),
        "gif": _encoded(colour.quantize(16), "GIF", transparency=2),
        "gif frames": _encoded(colour, "GIF", **frames),
        "bmp": _encoded(colour, "BMP"),
        "bmp palette": _encoded(colour.quantize(16), "BMP"),
        "ico": _encoded(alpha, "ICO", sizes=[(16, 16)]),
        "ico bmp": _encoded(alpha, "ICO", bitmap_format="bmp"),
        "tiff": _encoded(colour, "TIFF", **marked),
        "tiff lzw": _encoded(alpha, "TIFF", compression="tiff_lzw"),
        "tiff jpeg": _encoded(colour, "TIFF", compression="jpeg"),
        "tiff 16": _encoded(deep, "TIFF"),
        "tiff g4": _encoded(gray.convert("1"), "TIFF", compression="group4"),
        "tiff pages": _encoded(colour, "TIFF", **frames),
        "tiff f": _encoded(gray.convert("F").point(lambda v: v / 256), "TIFF", compression="tiff_adobe_deflate"),
        "jp2": _encoded(colour, "JPEG2000"),
        "j2k": _encoded(gray, "JPEG2000", no_jp2=True),
        "avif": _encoded(colour, "AVIF", **marked),
        "ppm": _encoded(colour, "PPM"),
        "pgm 16": _encoded(deep, "PPM"),
        "pbm": _encoded(gray.convert("1"), "PPM"),
        "pfm": _encoded(gray.convert("F"), "PPM"),
        "ppm plain": b"P3 # text\n4 4 255\n" + b" ".join(b"%d" % value for value in range(48)),
        "pbm plain": b"P1\n8 2\n1010101010101010",
        "ppm 12": b"P6 4 4 4095\n" + b"\x0a\xbc" * 48,
    }


def _encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()
