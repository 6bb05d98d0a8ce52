"""Files of images before they are decoded: what is left of them, what is refused, and that the work is bounded."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from intarsia.errors import SourceError
from intarsia.images.containers import Damaged, size_of, unpack
from intarsia.images.rgb_image import RgbImage, from_bytes
from tools.fuzz_pictures import seeds

SEEDS = seeds()
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
RNG = np.random.default_rng(7)
RGB = RNG.integers(0, 256, (18, 24, 3), dtype=np.uint8)
NETPBM = {"ppm", "pgm 16", "pbm", "pfm", "ppm plain", "pbm plain", "ppm 12"}


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def decode(data: bytes) -> RgbImage:
    return from_bytes("init_image", data, "it")


def refusal(data: bytes) -> str:
    with pytest.raises(SourceError) as caught:
        decode(data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


PNG = encoded(Image.fromarray(RGB))
JPEG = encoded(Image.fromarray(RGB), "JPEG")
GIF = encoded(Image.fromarray(RGB[:, :, 0]), "GIF")
WEBP = encoded(Image.fromarray(RGB), "WEBP", lossless=True)
TIFF = encoded(Image.fromarray(RGB), "TIFF")
JP2, J2K = (encoded(Image.fromarray(RGB), "JPEG2000", no_jp2=raw) for raw in (False, True))


def with_chunks(*chunks: bytes) -> bytes:
    return PNG[:33] + b"".join(chunks) + PNG[33:]


def with_segments(content: bytes) -> bytes:
    return JPEG[:2] + content + JPEG[2:]


def in_gif(content: bytes) -> bytes:
    at = GIF.index(b",\0\0\0\0\x18\0")
    return GIF[:at] + content + GIF[at:]


def extended_webp(*chunks: bytes) -> bytes:
    body = b"WEBPVP8X" + struct.pack("<IB3x", 10, 0) + b"\x17\0\0\x11\0\0" + b"".join(chunks) + WEBP[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff(tags: Sequence[tuple[int, int, int, int]], body: bytes = b"", following: int = 0) -> bytes:
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + struct.pack("<I", following) + body


RUNS = struct.pack("<2sIIIIiiHHIIiiII", b"BM", 0, 0, 54, 40, 9, 9, 1, 8, 1, 0, 0, 0, 0, 0)


def moved(data: bytes, at: int, content: bytes) -> bytes:
    return data[:at] + content + data[at:]


@pytest.mark.parametrize("name", sorted(SEEDS.keys() - NETPBM - {"avif"}))
def test_what_is_left_is_the_first_image(name):
    left = unpack(SEEDS[name])
    with Image.open(io.BytesIO(left.data)) as stripped, Image.open(io.BytesIO(SEEDS[name])) as original:
        assert getattr(stripped, "n_frames", 1) == 1
        assert left.has_more == (getattr(original, "n_frames", 1) > 1)
        # Pillow's TIFF decoder turns the image itself, if it is told to.
        original = ImageOps.exif_transpose(original)
        upright = np.asarray(stripped.convert("RGBA"))
        upright = upright[::-1, ::-1] if left.orientation == 3 else upright
        np.testing.assert_array_equal(upright, np.asarray(original.convert("RGBA")))


@pytest.mark.parametrize("name", sorted(SEEDS))
def test_sizes_from_the_beginning_of_a_file(name):
    data = SEEDS[name]
    with Image.open(io.BytesIO(data)) as image:
        size = image.size
    assert size_of(data) in (size, None)
    known = name.split()[0] in ("png", "apng", "jpeg", "gif", "webp", "bmp")
    assert (size_of(data) is not None) == known
    for end in range(0, len(data), 3):
        assert size_of(data[:end]) in (size, None)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (with_chunks(chunk(b"prVt", b"") * 100_001), "more than 100000 chunks"),
        (with_chunks(chunk(b"IDAT", b"") * 100_001), "more than 100000 chunks"),
        (with_segments(b"\xff\xe0\0\2" * 10_001), "more than 10000 segments"),
        (with_segments(b"\xff\xd0" * 10_001), "more than 10000 segments"),
        (JPEG[:-2] + b"\xff\xfe\0\2" * 10_001 + JPEG[-2:], "more than 10000 segments"),
        (JPEG[:-2] + JPEG[JPEG.index(b"\xff\xda") : -2] * 64 + JPEG[-2:], "more than 64 scans"),
        (in_gif(b"!\xfe" + b"\1a" * 110_000 + b"\0"), "more blocks"),
        (in_gif(b"!\xfe\0" * 110_000), "more blocks"),
        (in_gif(bytes(110_000)), "more blocks"),
        (GIF[:-1] + b"!\xfe\0" * 110_000 + b";", "more blocks"),
        (extended_webp(struct.pack("<4sI", b"prVt", 0) * 100_001), "more than 100000 chunks"),
        (struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, 70_000) + bytes(20 * 70_000), "more than 65535 tags"),
        (tiff([(256, 4, 1, 8), (257, 4, 1, 8), (273, 4, 2_000_000, 8)]), "strips or tiles"),
        (tiff([(256, 4, 1, 8), (257, 4, 1, 8), (273, 4, 40_000, 8)], bytes(160_000)), "uncompressed strips"),
        (tiff([(256, 4, 1, 8), (257, 4, 1, 8), (322, 4, 1, 65536), (323, 4, 1, 65536)]), "tiles are larger"),
        (struct.pack("<HHH", 0, 1, 2000) + bytes(16 * 2000), "1 to 1024 icons"),
        (moved(JP2, 12, struct.pack(">I4s", 8, b"free") * 1001), "has no image"),
        (moved(J2K, 4 + struct.unpack_from(">H", J2K, 4)[0], b"\xff\x5f\0\2" * 1001), "more than 1000 segments"),
        (J2K[:8] + struct.pack(">II", 8000, 8000) + J2K[16:24] + struct.pack(">II", 8, 8) + J2K[32:], "4096 tiles"),
        (b"P6\n#" + bytes(70_000) + b"\n1 1 255\nabc", "no Netpbm header"),
        (b"P6" + b" " * 70_000 + b"1 1 255\nabc", "no Netpbm header"),
        (b"P2 9 9 255\n" + b"1 " * (6 << 20), "plain Netpbm file of more than"),
        (b"Pf" + b" " * 70_000 + b"1 1 -1.0\n", "no PFM header"),
        (RUNS + bytes(1 << 20), "run-length"),
    ],
)  # fmt: skip
def test_more_parts_than_images_have_are_refused(data, expected):
    assert expected in refusal(data)


@pytest.mark.parametrize(
    "data",
    [
        with_segments(b"\xff" * 200_000),
        with_segments((b"\xff\xfe\xff\xff" + bytes(65533)) * 30),
        JPEG + b"\xff\xd8" * 100_000,
        in_gif(b"!\xfe" + (b"\xff" + bytes(255)) * 2000 + b"\0"),
        GIF + bytes(200_000),
        PNG + bytes(200_000),
        WEBP + bytes(200_000),
        with_chunks(chunk(b"prVt", bytes(100_000)) * 3),
        with_chunks(chunk(b"tEXt", b"a\0" + b"b" * 100_000) * 3),
        extended_webp(struct.pack("<4sI", b"prVt", 100_000) + bytes(100_000)),
    ],
)
def test_what_is_no_image_does_not_reach_the_decoder(data):
    assert len(unpack(data).data) < 4000
    assert decode(data).warnings == ()
    assert decode(data).size == (24, 18)


def test_one_page_in_a_circle_is_one_page():
    assert unpack(tiff([(256, 4, 1, 8), (257, 4, 1, 8)], following=8)).has_more is False
    assert unpack(tiff([(256, 4, 1, 8), (257, 4, 1, 8)], following=4000)).has_more is False


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"tIME", b"tRNS", b"gAMA", b"pHYs"])
def test_damage_beside_the_image_is_said_and_ignored(kind):
    damaged = chunk(kind, b"abc\0\0defghijk")[:-1] + b"?"
    image = decode(with_chunks(damaged))
    np.testing.assert_array_equal(image.rgb, RGB)
    assert image.warnings == (f"init_image: a damaged {kind.decode()} chunk was ignored",)


@pytest.mark.parametrize(("kind", "says"), [(b"iCCP", "color profile"), (b"eXIf", "EXIF"), (b"tRNS", "tRNS")])
def test_content_that_means_nothing_is_said_and_ignored(kind, says):
    image = decode(with_chunks(chunk(kind, b"a\0\0\1")))
    np.testing.assert_array_equal(image.rgb, RGB)
    assert [says in text for text in image.warnings] == [True]


@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE", b"IDAT"])
def test_damage_in_the_image_is_refused(kind):
    data = bytearray(encoded(Image.fromarray(RGB).quantize(8)))
    at = data.index(kind)
    data[at + 4] ^= 1
    assert f"the checksum of its {kind.decode()} chunk is wrong" in refusal(bytes(data))


def test_a_png_ends_where_its_end_is():
    assert decode(PNG + b"x" * 70_000).size == (24, 18)
    assert "the PNG has no end" in refusal(PNG[:-12])
    assert "the PNG has no end" in refusal(PNG[:-12] + b"x" * 70_000)


def test_profiles_up_to_what_jpeg_holds():
    large = SRGB + RNG.bytes(1_500_000)
    for data in (
        with_chunks(chunk(b"iCCP", b"wide\0\0" + zlib.compress(large))),
        encoded(Image.fromarray(RGB), "JPEG", icc_profile=large),
        encoded(Image.fromarray(RGB), "WEBP", icc_profile=large),
        encoded(Image.fromarray(RGB), "TIFF", icc_profile=large),
    ):
        assert decode(data).icc_profile == large
        assert decode(data).warnings == ()
    beyond = decode(with_chunks(chunk(b"iCCP", b"wide\0\0" + zlib.compress(bytes(17 << 20)))))
    assert beyond.icc_profile is None
    assert "more than 16777216 bytes" in beyond.warnings[0]


def test_a_profile_in_parts():
    parts = [
        b"\xff\xe2"
        + struct.pack(">H", 16 + 300)
        + b"ICC_PROFILE\0"
        + bytes([n, 2])
        + SRGB[(n - 1) * 300 :][:300].ljust(300, b"\0")
        for n in (2, 1)
    ]
    assert decode(with_segments(b"".join(parts))).icc_profile == SRGB.ljust(600, b"\0")
    missing = decode(with_segments(parts[0]))
    assert missing.icc_profile is None
    assert "parts are missing" in missing.warnings[0]


def exif(order: str, value: int) -> bytes:
    mark = b"II" if order == "<" else b"MM"
    return mark + struct.pack(f"{order}HIHHHIHHI", 42, 8, 1, 0x0112, 3, 1, value, 0, 0)


RAW_EXIF = b"\nexif\n   26\n" + exif("<", 6).hex().encode()
XMP = b'<x tiff:Orientation="6"/>'


@pytest.mark.parametrize(
    "data",
    [
        with_chunks(chunk(b"eXIf", exif("<", 6))),
        with_chunks(chunk(b"eXIf", b"Exif\0\0" + exif(">", 6))),
        PNG[:-12] + chunk(b"eXIf", exif(">", 6)) + PNG[-12:],
        with_chunks(chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(RAW_EXIF))),
        with_chunks(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)),
        with_chunks(chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP))),
        with_segments(b"\xff\xe1" + struct.pack(">H", 8 + len(exif("<", 6))) + b"Exif\0\0" + exif("<", 6)),
        with_segments(b"\xff\xe1" + struct.pack(">H", 31 + len(XMP)) + b"http://ns.adobe.com/xap/1.0/\0" + XMP),
        extended_webp(b"EXIF" + struct.pack("<I", 26) + exif("<", 6)),
    ],
)  # fmt: skip
def test_orientation_wherever_it_is_written(data):
    assert decode(data).size == (18, 24)


@pytest.mark.parametrize("name", sorted(SEEDS.keys() & NETPBM - {"ppm 12"}))
def test_netpbm_is_read_as_pillow_reads_it(name):
    with Image.open(io.BytesIO(SEEDS[name])) as image:
        values = np.asarray(image.convert("RGB") if image.mode in ("1", "L") else image, np.float64)
    white = {"pgm 16": 65535}.get(name, 255)
    expected = np.rint(values * 255 / white)
    found = decode(SEEDS[name]).rgb
    np.testing.assert_array_equal(found, expected if expected.ndim == 3 else np.dstack([expected] * 3))


@pytest.mark.parametrize(
    "data",
    [
        b"P5 2 1 255\n\1",
        b"P2 2 1 255\n1",
        b"P1 3 1\n10",
        b"P4 9 1\n\1",
        b"P3 1 1 255\n1 2 x",
        b"P1 2 1 23",
        b"P2 2 1 9\n1 10",
        b"P5 1 1 0\n1",
    ],
)
def test_netpbm_that_is_damaged(data):
    assert "init_image: it is " in refusal(data)


def test_a_frame_outside_the_screen_counts_for_the_size():
    data = bytearray(GIF)
    data[6:10] = struct.pack("<HH", 4, 4)
    assert unpack(bytes(data)).size == (24, 18)
    assert decode(bytes(data)).size == (24, 18)


def test_twelve_bits_of_a_tiff_are_scaled_by_what_they_can_be():
    values = [0, 4095, 2048, 16]
    packed = b"".join(
        bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in zip(values[::2], values[1::2], strict=True)
    )
    tags = [
        (256, 3, 1, 4),
        (257, 3, 1, 1),
        (258, 3, 1, 12),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, 1, 122),
        (277, 3, 1, 1),
        (278, 3, 1, 1),
        (279, 4, 1, 6),
    ]
    data = tiff(tags, packed)
    assert data[122:] == packed
    np.testing.assert_array_equal(decode(data).gray, [[0, 255, 128, 1]])


def test_damaged_is_an_error_of_its_own():
    with pytest.raises(Damaged, match="has no end"):
        unpack(PNG[:40])
