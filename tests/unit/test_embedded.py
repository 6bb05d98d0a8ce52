"""EXIF, XMP and density of the input in the files of its result, read by Pillow, which is not what wrote them."""

from __future__ import annotations

import io
import itertools
import random
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

import intarsia
from intarsia.images.embedded import NOTHING, EmbeddedMetadata, kept
from intarsia.images.encode import encode
from intarsia.images.exif_block import EMPTY, Tag, read_tags, upright, with_tags
from intarsia.images.rgb_image import from_bytes, from_image
from tests.noise_request import noise_request

FORMATS = ("PNG", "JPEG", "WEBP")
EXIF_DIRECTORY, GPS_DIRECTORY, INTEROP_DIRECTORY = 0x8769, 0x8825, 0xA005
THUMBNAIL = b"\xff\xd8" + b"thumbnail" * 40 + b"\xff\xd9"
RIGHTS = b"<dc:rights>me</dc:rights></x:xmpmeta>"
XMP = b'<x:xmpmeta tiff:Orientation="6"><xmp:Thumbnails><a>secret</a></xmp:Thumbnails>' + RIGHTS
XMP_AFTER = b'<x:xmpmeta tiff:Orientation="1">' + RIGHTS
TEXTS: dict[str, Any] = {"metadata": {"prompt": "x"}, "parameters": "x\nSteps: 1, Seed: 2, Size: 3x4"}


def camera(order: str = "<") -> bytes:
    """A camera's block: three directories, maker's notes, and a thumbnail behind them."""
    block = Image.Exif()
    block.endian = order
    block[0x010E], block[0x010F], block[0x8298] = "a view", "Camera", "(c) somebody"
    block[0x0112], block[0x0131], block[0x011A], block[0x0128] = 6, "Firmware 1.0", 240.0, 2
    own = block.get_ifd(EXIF_DIRECTORY)
    own[0x9003], own[0x829A], own[0x927C], own[0xA002], own[0xA003] = "2024:01:02 03:04:05", 0.005, b"notes", 128, 96
    own[0x9286] = b"ASCII\0\0\0a comment"
    block.get_ifd(GPS_DIRECTORY).update({1: "N", 2: (1.0, 2.0, 3.0)})
    data = bytearray(block.tobytes().removeprefix(b"Exif\0\0"))

    first = struct.unpack_from(f"{order}I", data, 4)[0]
    following = first + 2 + 12 * struct.unpack_from(f"{order}H", data, first)[0]
    second = len(data)
    struct.pack_into(f"{order}I", data, following, second)
    data += struct.pack(f"{order}HHHIIHHIII", 2, 0x201, 4, 1, second + 30, 0x202, 4, 1, len(THUMBNAIL), 0)
    return bytes(data + THUMBNAIL)


def a_file(format: str, exif: bytes, **more: Any) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    block = b"Exif\0\0" + exif if format == "JPEG" else exif
    Image.fromarray(pixels).save(buffer, format, exif=block, **more)
    return buffer.getvalue()


def tags(image: Image.Image) -> dict[int, Any]:
    """Every tag of every directory that Pillow finds."""
    block = image.getexif()
    found = dict(block)
    for directory in (EXIF_DIRECTORY, GPS_DIRECTORY, INTEROP_DIRECTORY):
        found |= {(directory, tag): value for tag, value in block.get_ifd(directory).items()}
    return {tag: value for tag, value in found.items() if tag not in (EXIF_DIRECTORY, GPS_DIRECTORY)}


def reopened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("before", "after"), list(itertools.product(FORMATS, FORMATS)))
def test_exif_in_is_exif_out(order, before, after):
    source = a_file(before, camera(order))
    embedded = from_bytes("init_image", source, "it").embedded
    data, _ = encode(Image.new("RGB", (96, 128)), after, embedded=embedded, **TEXTS)

    was, now = tags(reopened(source)), tags(reopened(data))
    if after != "PNG":  # which has texts elsewhere
        assert now.pop(0x0131) == "intarsia"
        assert now.pop(0x9213) == '{"prompt": "x"}'
        assert now.pop((EXIF_DIRECTORY, 0x9286)).startswith(b"UNICODE\0")
        del was[0x0131], was[(EXIF_DIRECTORY, 0x9286)]
    assert was[0x0112] == 6
    expected = {0x0112: 1, (EXIF_DIRECTORY, 0xA002): 96, (EXIF_DIRECTORY, 0xA003): 128}
    assert now == was | expected
    assert THUMBNAIL in source
    assert b"thumbnail" not in data


@pytest.mark.parametrize("format", FORMATS)
def test_without_metadata_the_inputs_exif_is_all_there_is(format):
    embedded = kept(camera())
    data, _ = encode(Image.new("RGB", (96, 128)), format, embedded=embedded)
    now = tags(reopened(data))
    assert now[0x0131] == "Firmware 1.0"
    assert now[(EXIF_DIRECTORY, 0x9286)] == b"ASCII\0\0\0a comment"
    assert 0x9213 not in now
    plain, _ = encode(Image.new("RGB", (96, 128)), format)
    assert not reopened(plain).getexif()


@pytest.mark.parametrize("after", FORMATS)
@pytest.mark.parametrize("before", FORMATS)
def test_density_and_xmp_are_kept(before, after):
    more: dict[str, Any] = {"xmp": XMP}
    if before == "PNG":
        chunks = PngImagePlugin.PngInfo()
        chunks.add_itxt("XML:com.adobe.xmp", XMP.decode(), zip=True)
        more = {"pnginfo": chunks}
    density = {} if before == "WEBP" else {"dpi": (300, 150)}
    embedded = from_bytes("init_image", a_file(before, b"", **more, **density), "it").embedded
    image = reopened(encode(Image.new("RGB", (96, 128)), after, embedded=embedded, **TEXTS)[0])
    image.load()

    assert image.info["xmp"] == XMP_AFTER
    if density and after == "WEBP":
        assert [image.getexif()[tag] for tag in (0x011A, 0x011B, 0x0128)] == pytest.approx([300, 150, 2], abs=0.02)
    elif density:
        assert image.info["dpi"] == pytest.approx((300, 150), abs=0.02)


def test_density_of_both_units_and_of_none():
    jpeg = bytearray(a_file("JPEG", b"", dpi=(100, 50)))
    unit = jpeg.index(b"JFIF\0") + 7
    for value, expected in ((1, (100, 50)), (2, (254, 127)), (0, None)):
        jpeg[unit] = value
        assert from_bytes("init_image", bytes(jpeg), "it").embedded.dpi == expected


def test_images_that_pillow_has_opened_have_theirs():
    for format in FORMATS:
        density = {} if format == "WEBP" else {"dpi": (300, 300)}
        data = a_file(format, camera(), **density)
        from_file = from_bytes("init_image", data, "it").embedded
        from_pillow = from_image("init_image", reopened(data)).embedded
        assert from_pillow.exif == from_file.exif
        if density:
            assert from_pillow.dpi == from_file.dpi == pytest.approx((300, 300), abs=0.01)
    assert from_image("init_image", Image.new("RGB", (8, 8))).embedded == NOTHING
    block = Image.Exif()
    block[0x010F] = "Camera"
    without_density = reopened(a_file("JPEG", block.tobytes().removeprefix(b"Exif\0\0")))
    assert without_density.info["dpi"] == (72, 72), "which Pillow makes up"
    assert from_image("init_image", without_density).embedded.dpi is None


def test_maker_notes_stay_where_they_are():
    """They have offsets of their own, from the block's beginning."""
    block = camera()
    changed = with_tags(upright(block), {0x013B: Tag.text("x" * 99)}, {0x9292: Tag.text("y" * 99)})
    before = struct.unpack_from("<I", block, 4)[0]
    directory = block[before : block.index(THUMBNAIL)]
    assert changed[before : before + len(directory)] == directory
    assert read_tags(changed, {0x013B, 0x927C}) == {0x013B: b"x" * 99 + b"\0", 0x927C: b"notes"}


def test_how_the_input_was_made_is_not_copied():
    made, _ = encode(
        Image.new("RGB", (64, 64)), "WEBP", metadata={"prompt": "of the input"}, parameters=TEXTS["parameters"]
    )
    embedded = from_bytes("init_image", made, "it").embedded
    for format in FORMATS:
        data, _ = encode(Image.new("RGB", (64, 64)), format, embedded=embedded)
        assert b"of the input" not in data
        assert not {0x9213, (EXIF_DIRECTORY, 0x9286)} & set(tags(reopened(data)))
    earlier = Image.Exif()
    earlier[0x010E] = '{"prompt": "of the input"}'
    assert 0x010E not in tags(reopened(encode(Image.new("RGB", (8, 8)), "WEBP", embedded=kept(earlier.tobytes()))[0]))


def test_damage_is_a_note_and_nothing_is_kept_of_it():
    for block, note in ((camera()[:60], "cannot be read"), (b"II*\0" + bytes(1 << 20), "more than 1048576 bytes")):
        notes: list[str] = []
        assert kept(block, notes=notes) == NOTHING
        assert note in notes[0]
    notes = []
    assert kept(xmp=b"x" * ((1 << 20) + 1), notes=notes) == NOTHING
    assert "XMP" in notes[0]
    assert kept(dpi=(0.0, 5.0)) == kept(dpi=(1e9, 5.0)) == NOTHING


@pytest.mark.parametrize("blocks", [500, pytest.param(2000, marks=pytest.mark.slow)])
def test_any_bytes_are_kept_or_left_out_in_bounded_work(blocks):
    rng = random.Random(5)
    for _ in range(blocks):
        block = bytearray(camera(rng.choice("<>")))
        for _ in range(rng.randint(1, 8)):
            block[rng.randrange(4, len(block))] = rng.choice((0, 1, 0xFF, rng.randrange(256)))
        embedded = kept(bytes(block))
        if embedded.exif:
            assert len(embedded.exif) <= len(block) + 12 * 256 + 64
            encode(Image.new("RGB", (4, 4)), "WEBP", embedded=embedded, **TEXTS)

    # every entry of the largest directory shows to the whole block
    entries = b"".join(struct.pack("<HHII", 0x9000, 1, 1 << 20, 8) for _ in range(65535))
    largest = b"II*\0\x08\0\0\0" + struct.pack("<H", 65535) + entries + bytes(4)
    assert len(read_tags(largest, {0x9000})) <= 1
    opening = b"<xmp:Thumbnails" * 60_000
    assert kept(xmp=opening).xmp == opening


def test_a_thumbnail_anywhere_is_gone():
    block = bytearray(camera())
    block += b"\0\0tail"
    assert b"thumbnail" not in upright(bytes(block))
    assert upright(bytes(block)).count(b"tail") == 1
    assert upright(EMPTY)[:4] == EMPTY[:4]


def test_what_is_too_long_for_jpeg_is_left_out_with_a_warning():
    image = Image.new("RGB", (8, 8))
    long = with_tags(EMPTY, {0x010E: Tag.text("x" * 65_500)}, {})
    _, warnings = encode(image, "JPEG", embedded=EmbeddedMetadata(exif=long, xmp=b"y" * 70_000), **TEXTS)
    assert "init_image's EXIF data are too long for JPEG and were left out" in warnings
    assert "init_image's XMP data are too long for JPEG and were left out" in warnings
    for format in ("PNG", "WEBP"):
        assert encode(image, format, embedded=EmbeddedMetadata(exif=long, xmp=b"y" * 70_000), **TEXTS)[1] == ()


def test_a_result_has_it_unless_it_is_stripped(empty_registry, tmp_path):
    image = reopened(a_file("JPEG", camera()))
    mask = np.zeros((128, 96), np.uint8)
    mask[40:60, 40:60] = 255
    with intarsia.Engine("null", weights=empty_registry) as engine:
        result = engine.run(noise_request(64, slice(9, 20), slice(9, 20), init_image=image, mask_image=mask))
    for strip in (False, True):
        result.save(tmp_path / f"{strip}.png", strip=strip)
        with Image.open(tmp_path / f"{strip}.png") as made:
            assert made.size == (96, 128)
            assert made.getexif().get(0x010F) == (None if strip else "Camera")
            assert made.getexif().get(0x0112) == (None if strip else 1)
