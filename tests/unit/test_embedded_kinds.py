"""EXIF, XMP and density of the files that hold them otherwise than JPEG, PNG and WebP: TIFF, AVIF, HEIC."""

from __future__ import annotations

import io
import random
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin, features

from intarsia.images.containers.tiff_metadata import TiffMetadata, tiff_metadata
from intarsia.images.embedded import EmbeddedMetadata
from intarsia.images.rgb_image import from_bytes

EXIF, GPS, ORIENTATION, MAKER_NOTE, XMP = 34665, 34853, 274, 37500, 700
PACKET = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"></x:xmpmeta>'


def pixels() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))


def exif_block() -> bytes:
    block = Image.Exif()
    block[271], block[ORIENTATION] = "Maker", 6
    block.get_ifd(EXIF).update({0x9003: "2020:01:02 03:04:05", 0x829A: 0.004})
    block.get_ifd(GPS).update({1: "N", 2: (1.0, 2.0, 3.0)})
    return block.tobytes()


def tiff(order: str = "<", **more: Any) -> bytes:
    """As Pillow's own writer does it, whose directory is the oracle."""
    prefix = b"II" if order == "<" else b"MM"
    tags = TiffImagePlugin.ImageFileDirectory_v2(prefix=prefix)
    tags[270], tags[271], tags[ORIENTATION], tags[33432] = "A view", "Maker", 6, "Somebody"
    tags[EXIF] = {0x9003: "2020:01:02 03:04:05", 0x829A: TiffImagePlugin.IFDRational(1, 250), MAKER_NOTE: b"x" * 40}
    tags[GPS] = {1: "N", 2: (1.0, 2.0, 3.0)}
    tags[XMP] = PACKET
    tags.tagtype[XMP] = 1
    buffer = io.BytesIO()
    pixels().save(buffer, "TIFF", tiffinfo=tags, **more)
    return buffer.getvalue()


def embedded(data: bytes) -> EmbeddedMetadata:
    read = from_bytes("init_image", data, "it")
    assert read.warnings == ()
    assert read.to_pil().size == (20, 30), "it is upright"
    return read.embedded


def tags_of(block: bytes) -> dict[Any, Any]:
    read = Image.Exif()
    read.load(block)
    found: dict[Any, Any] = {tag: value for tag, value in read.items() if tag not in (EXIF, GPS)}
    for directory in (EXIF, GPS):
        found |= {(directory, tag): value for tag, value in read.get_ifd(directory).items()}
    return found


def test_of_a_tiff():
    found = embedded(tiff(dpi=(300, 150)))
    assert tags_of(found.exif) == {
        270: "A view", 271: "Maker", 33432: "Somebody",
        (EXIF, 0x9003): "2020:01:02 03:04:05", (EXIF, 0x829A): 0.004,
        (GPS, 1): "N", (GPS, 2): (1.0, 2.0, 3.0),
    }  # fmt: skip
    assert found.xmp == PACKET.replace(b"6", b"1")
    assert found.dpi == (300.0, 150.0)


def test_of_a_tiff_in_the_other_order():
    little = b"II*\0" + struct.pack("<I", 8)
    directory = struct.pack("<H", 2) + struct.pack("<HHI4s", 271, 2, 4, b"ABC\0") + struct.pack("<HHII", EXIF, 4, 1, 38)
    inner = struct.pack("<H", 1) + struct.pack("<HHII", 0x829A, 5, 1, 56) + bytes(4) + struct.pack("<II", 1, 250)
    data = little + directory + bytes(4) + inner
    assert tags_of(tiff_metadata(data, "<", 8).exif) == {271: "ABC", (EXIF, 0x829A): 0.004}

    big = b"MM\0*" + struct.pack(">I", 8)
    directory = (
        struct.pack(">H", 2) + struct.pack(">HHI4s", 271, 2, 4, b"ABC\0") + struct.pack(">HHII", EXIF, 13, 1, 38)
    )
    inner = struct.pack(">H", 1) + struct.pack(">HHII", 0x829A, 5, 1, 56) + bytes(4) + struct.pack(">II", 1, 250)
    data = big + directory + bytes(4) + inner
    assert tags_of(tiff_metadata(data, ">", 8).exif) == {271: "ABC", (EXIF, 0x829A): 0.004}


def test_a_tiff_per_centimeter_and_one_without_a_unit():
    per_centimeter = TiffImagePlugin.ImageFileDirectory_v2()
    per_centimeter[282] = per_centimeter[283] = TiffImagePlugin.IFDRational(100, 1)
    for unit, dpi in ((3, (254.0, 254.0)), (1, None)):
        per_centimeter[296] = unit
        buffer = io.BytesIO()
        pixels().save(buffer, "TIFF", tiffinfo=per_centimeter)
        assert from_bytes("init_image", buffer.getvalue(), "it").embedded.dpi == dpi


def test_of_an_avif():
    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    buffer = io.BytesIO()
    pixels().save(buffer, "AVIF", exif=exif_block(), xmp=PACKET)
    found = embedded(buffer.getvalue())
    assert tags_of(found.exif) == tags_of(exif_block()) | {ORIENTATION: 1}
    assert found.xmp == PACKET.replace(b"6", b"1")


def test_of_a_heic():
    pillow_heif = pytest.importorskip("pillow_heif", reason="writes HEIC: pip install 'intarsia[heif]'")
    buffer = io.BytesIO()
    pillow_heif.from_pillow(pixels()).save(buffer, quality=90, exif=exif_block(), xmp=PACKET)
    found = embedded(buffer.getvalue())
    assert tags_of(found.exif) == tags_of(exif_block()) | {ORIENTATION: 1}
    assert b"6" not in found.xmp


def test_any_directory_is_read_in_bounded_work():
    rng = random.Random(5)
    whole = tiff()
    for _ in range(2000):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(8, len(data))] = rng.choice((0, 1, 0xFF, rng.randrange(256)))
        (first,) = struct.unpack_from("<I", data, 4)
        found = tiff_metadata(bytes(data), "<", first)
        assert len(found.exif) <= 1 << 20

    # every entry of two directories shows to the whole file
    entries = b"".join(struct.pack("<HHII", 0x9000 + number % 8, 1, 1 << 20, 8) for number in range(1000))
    inner = struct.pack("<H", 1000) + entries + bytes(4)
    main = struct.pack("<H", 2) + struct.pack("<HHII", EXIF, 4, 1, 38) + struct.pack("<HHII", GPS, 4, 1, 38) + bytes(4)
    large = b"II*\0" + struct.pack("<I", 8) + main + inner + bytes(1 << 20)
    assert len(tiff_metadata(large, "<", 8).exif) <= 1 << 20
    assert tiff_metadata(b"II*\0\xff\xff\xff\xff", "<", 0xFFFFFFFF) == TiffMetadata()
