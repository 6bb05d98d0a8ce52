"""Decoding and normalizing: every mode, every orientation, and what is refused."""

from __future__ import annotations

import io
import struct
import threading
import tracemalloc
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from intarsia.batch.ledger.error_kinds import classify
from intarsia.errors import OutOfMemory, SourceError
from intarsia.images import decode as decoding
from intarsia.images import rgb_image
from intarsia.images.access import MAX_PIXELS, pixel_limit
from intarsia.images.rgb_image import RgbImage, from_array, from_bytes, from_image

RNG = np.random.default_rng(5)
COLOR = RNG.integers(0, 256, (9, 14, 3), dtype=np.uint8)
GRAY = RNG.integers(0, 256, (9, 14), dtype=np.uint8)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def decode(data: bytes) -> RgbImage:
    return from_bytes("init_image", data, "the content")


def refusal(data: bytes) -> str:
    with pytest.raises(SourceError) as caught:
        decode(data) if isinstance(data, bytes) else from_array("init_image", data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "I;16"])
def test_orientation_is_applied(orientation, mode):
    array = {
        "RGB": COLOR,
        "RGBA": np.dstack((COLOR, GRAY)),
        "L": GRAY,
        "I;16": GRAY.astype(np.uint16) * 257,
    }[mode]
    image = Image.fromarray(array)
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode(encoded(image, exif=exif))
    with Image.open(io.BytesIO(encoded(image, exif=exif))) as stored:
        upright = np.asarray(ImageOps.exif_transpose(stored))
    if mode == "I;16":
        upright = (upright // 257).astype(np.uint8)
    expected = upright if upright.ndim == 3 else np.dstack([upright] * 3)
    np.testing.assert_array_equal(decoded.rgb, expected[:, :, :3])
    if mode == "RGBA":
        np.testing.assert_array_equal(decoded.alpha, expected[:, :, 3])


def test_damaged_exif_is_said_and_ignored():
    data = encoded(Image.fromarray(COLOR), exif=b"Exif\0\0II*\0" + b"\xff" * 9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = decode(data)
    np.testing.assert_array_equal(image.rgb, COLOR)


def test_palette_with_and_without_transparency():
    image = Image.fromarray(COLOR).quantize(8)
    decoded = decode(encoded(image))
    np.testing.assert_array_equal(decoded.rgb, np.asarray(image.convert("RGB")))
    assert decoded.alpha is None
    decoded = decode(encoded(image, transparency=3))
    np.testing.assert_array_equal(decoded.alpha, np.where(np.asarray(image) == 3, 0, 255))


def test_gray_alpha_bilevel():
    image = decode(encoded(Image.fromarray(GRAY)))
    np.testing.assert_array_equal(image.gray, GRAY)
    image = from_image("f", Image.merge("LA", (Image.fromarray(GRAY), Image.fromarray(GRAY[::-1].copy()))))
    np.testing.assert_array_equal(image.gray, GRAY)
    np.testing.assert_array_equal(image.alpha, GRAY[::-1])
    bits = GRAY > 100
    image = decode(encoded(Image.fromarray(bits)))
    np.testing.assert_array_equal(image.gray, bits * 255)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_gray_is_the_luma_of_the_colors(mode):
    image = Image.fromarray(GRAY.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(COLOR).convert(mode)
    found = decode(encoded(image))
    assert found.is_gray == (mode in ("1", "L", "LA", "I;16"))
    np.testing.assert_array_equal(found.gray, np.asarray(Image.fromarray(found.rgb).convert("L")))


def test_color_key_transparency():
    key = tuple(int(v) for v in COLOR[0, 0])
    image = decode(encoded(Image.fromarray(COLOR), transparency=key))
    np.testing.assert_array_equal(image.alpha == 0, (key == COLOR).all(axis=2))
    image = decode(encoded(Image.fromarray(GRAY), transparency=int(GRAY[0, 0])))
    np.testing.assert_array_equal(image.alpha == 0, GRAY[0, 0] == GRAY)


def test_sixteen_bits_are_scaled_not_clipped():
    values = np.array([[0, 128, 129, 256, 257, 32768, 65535, 65407]], np.uint16)
    expected = np.rint(values / 257).astype(np.uint8)
    for image in (
        decode(encoded(Image.fromarray(values))),
        from_array("f", values),
        from_array("f", values.astype(">u2")),
        decode(encoded(Image.fromarray(values), "TIFF")),
    ):
        np.testing.assert_array_equal(image.gray, expected)
    assert expected.max() == 255
    assert expected[0, 5] == 128


def test_mode_i_and_f():
    ints = np.array([[0, 100, 255]], np.int32)
    np.testing.assert_array_equal(from_image("f", Image.fromarray(ints)).gray, ints)
    np.testing.assert_array_equal(from_image("f", Image.fromarray(ints * 257)).gray, ints)
    floats = ints.astype(np.float32)
    np.testing.assert_array_equal(from_image("f", Image.fromarray(floats / 255)).gray, ints)
    np.testing.assert_array_equal(from_image("f", Image.fromarray(floats)).gray, ints)
    for bad in (floats - 1, floats * 1e6, floats * np.nan, floats + np.inf):
        with pytest.raises(SourceError):
            from_image("f", Image.fromarray(bad.astype(np.float32)))


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV", "LAB", "RGBX", "La", "RGBa", "PA", "1", "P"])
def test_every_other_mode_is_read(mode):
    via = {"La": "LA", "RGBa": "RGBA", "PA": "P"}.get(mode)
    image = Image.fromarray(COLOR)
    if mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(image, ImageCms.createProfile("sRGB"), lab, outputMode="LAB")
    else:
        image = image.convert(via).convert(mode) if via else image.convert(mode)
    decoded = from_image("f", image)
    assert decoded.size == (14, 9)
    error = np.abs(decoded.rgb.astype(int) - COLOR).mean()
    limit = {"1": 130, "La": 80, "P": 60, "PA": 60}.get(mode, 12)
    assert error < limit


def test_cmyk_says_that_it_was_converted_and_drops_its_profile():
    data = encoded(Image.fromarray(COLOR).convert("CMYK"), "JPEG", quality=100, icc_profile=b"x" * 200)
    image = decode(data)
    assert image.icc_profile is None
    assert any("CMYK" in text for text in image.warnings)
    assert np.abs(image.rgb.astype(int) - COLOR).mean() < 12


def test_color_profiles_are_kept_where_they_are_for_rgb():
    assert decode(encoded(Image.fromarray(COLOR), icc_profile=SRGB)).icc_profile == SRGB
    assert decode(encoded(Image.fromarray(COLOR))).icc_profile is None
    gray = SRGB[:16] + b"GRAY" + SRGB[20:]
    image = decode(encoded(Image.fromarray(GRAY), icc_profile=gray))
    assert image.icc_profile is None
    assert any("profile" in text for text in image.warnings)


def test_animated_images_give_their_first_frame():
    frames = [Image.fromarray(np.full((6, 6, 3), level, np.uint8)) for level in (10, 200)]
    for format in ("PNG", "WEBP", "GIF"):
        lossless = {"lossless": True} if format == "WEBP" else {}
        image = decode(encoded(frames[0], format, save_all=True, append_images=frames[1:], **lossless))
        assert (image.rgb == 10).all()
        assert any("more than one frame" in text for text in image.warnings)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO"])
def test_every_common_format_is_read_without_a_warning(format):
    assert decode(encoded(Image.fromarray(COLOR), format)).warnings == ()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated_files_are_refused_wherever_they_end(format):
    noise = RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), format)
    for end in (*range(1, len(data) - 16, max(1, len(data) // 40)), len(data) - 16):
        assert "init_image: the content is" in refusal(data[:end]), end


def test_png_without_its_end_is_truncated():
    assert "truncated" in refusal(encoded(Image.fromarray(COLOR))[:-12])


def test_decompression_bombs_are_an_error_without_a_warning(monkeypatch):
    data = encoded(Image.fromarray(np.zeros((40, 50), np.uint8)))
    for limit in (1999, 999):  # Pillow only warns up to twice its limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert f"the limit is {limit}" in refusal(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    assert decode(data).size == (50, 40)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert decode(data).size == (50, 40)


def test_decoding_in_threads():
    data, results = encoded(Image.fromarray(COLOR)), []
    threads = [threading.Thread(target=lambda: results.append(decode(data).sha256)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert len(set(results)) == 1


@pytest.mark.parametrize(
    "array",
    [
        GRAY,
        GRAY[:, :, None],
        COLOR,
        np.dstack((COLOR, GRAY)),
        GRAY > 9,
        COLOR / 255,
        COLOR[:, ::-1],
        np.asfortranarray(COLOR),
        (COLOR / 255).astype(np.float16),
        COLOR.astype(np.uint16) * 257,
    ],
)
def test_arrays_of_any_kind_become_8_bit_rgb(array):
    image = from_array("f", array)
    scale = {"b": 255, "f": 255}.get(array.dtype.kind, 1 / 257 if array.dtype.itemsize == 2 else 1)
    expected = np.rint(array.astype(np.float64) * scale)
    if expected.ndim == 2:
        expected = expected[:, :, None]
    np.testing.assert_array_equal(image.rgb, np.broadcast_to(expected[:, :, :3], image.rgb.shape))
    assert (image.alpha is not None) == (array.ndim == 3 and array.shape[2] == 4)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.zeros((4, 4, 2), np.uint8), "not (4, 4, 2)"),
        (np.zeros((1, 4, 4, 3), np.uint8), "not (1, 4, 4, 3)"),
        (np.zeros((3, 8, 8), np.uint8), "not (3, 8, 8)"),
        (np.zeros(7, np.uint8), "not (7,)"),
        (np.zeros((0, 4), np.uint8), "must have pixels"),
        (np.zeros((4, 4), np.int64), "not int64"),
        (np.zeros((4, 4), np.complex64), "not complex64"),
        (np.zeros((4, 4), object), "not object"),
        (np.full((4, 4), np.nan), "must be finite"),
        (np.full((4, 4), np.inf), "must be finite"),
        (np.full((4, 4), 1.5), "0…1"),
        (np.full((4, 4), -0.1), "0…1"),
    ],
)
def test_arrays_that_mean_nothing(array, expected):
    assert expected in refusal(array)


def test_an_image_shares_nothing_with_the_callers_array():
    array = COLOR.copy()
    image = from_array("f", array)
    array[:] = 0
    np.testing.assert_array_equal(image.rgb, COLOR)
    assert array.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        image.rgb[0] = 0
    own = COLOR.copy()
    RgbImage(own)
    own[0] = 1  # still the caller's to write


def test_hash_is_of_the_content():
    a, alpha = from_array("f", COLOR), from_array("f", np.dstack((COLOR, GRAY)))
    assert a.sha256 == decode(encoded(Image.fromarray(COLOR), icc_profile=SRGB)).sha256
    assert a.sha256 != alpha.sha256
    assert a.sha256 != from_array("f", COLOR.reshape(14, 9, 3)).sha256
    other = COLOR.copy()
    other[0, 0, 0] ^= 1
    assert a.sha256 != from_array("f", other).sha256


def test_round_trip_to_pil():
    image = decode(encoded(Image.fromarray(np.dstack((COLOR, GRAY))), icc_profile=SRGB))
    again = from_image("f", image.to_pil())
    assert again.sha256 == image.sha256
    assert again.icc_profile == SRGB


def test_a_closed_image_is_refused(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(encoded(Image.fromarray(COLOR)))
    image = Image.open(path)
    image.close()
    with pytest.raises(SourceError, match="truncated or damaged"):
        from_image("f", image)


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_mask_is_its_brightness_in_any_mode(mode, orientation):
    image = Image.fromarray(COLOR).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    mask, gray = (from_bytes(field, buffer.getvalue(), "it") for field in ("mask_image", "init_image"))
    expected = np.asarray(image.convert("L"))
    np.testing.assert_array_equal(mask.gray, expected if orientation == 1 else np.rot90(expected, -1))
    np.testing.assert_array_equal(mask.gray, gray.gray)
    for channel in range(3):
        np.testing.assert_array_equal(mask.rgb[:, :, channel], mask.gray)
    assert mask.rgb.shape == gray.rgb.shape
    assert mask.is_gray
    with pytest.raises(ValueError, match="read-only"):
        mask.rgb[0, 0, 0] = 1
    as_gray = io.BytesIO()
    image.convert("L").save(as_gray, "PNG", exif=exif)
    assert from_bytes("mask_image", as_gray.getvalue(), "it").sha256 == mask.sha256


def deep_png(values: np.ndarray, kind: int, bits: int = 16, transparent: bytes = b"") -> bytes:
    """A PNG of any depth, with filter 0; Pillow writes 16 bits in gray alone."""
    height, width = values.shape[:2]
    if bits == 16:
        lines = [row.astype(">u2").tobytes() for row in values]
    else:
        unpacked = np.unpackbits(values[:, :, None].astype(np.uint8), axis=2)[:, :, -bits:]
        lines = [np.packbits(row).tobytes() for row in unpacked]
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)), (b"tRNS", transparent)]
    parts += [(b"IDAT", zlib.compress(b"".join(b"\0" + line for line in lines))), (b"IEND", b"")]
    chunks = [
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in parts
        if content or name == b"IEND"
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def deep_tiff(values: np.ndarray, order: str, packed: bool) -> bytes:
    """A TIFF of 16-bit color in one strip."""
    content = values.astype(f"{order}u2").tobytes()
    content = zlib.compress(content) if packed else content
    height, width, channels = values.shape
    start = 8 + 2 + 12 * 10 + 4
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, channels, start), (259, 3, 1, 8 if packed else 1)]
    tags += [(262, 3, 1, 2), (273, 4, 1, start + 2 * channels), (277, 3, 1, channels), (278, 4, 1, height)]
    tags += [(279, 4, 1, len(content)), (338, 3, channels - 3, 2)]
    short = "H2x"
    entries = [
        struct.pack(f"{order}HHI{short if kind == 3 and n == 1 else 'I'}", tag, kind, n, v) for tag, kind, n, v in tags
    ]
    entries = entries[: len(tags) - (channels == 3)]
    head = struct.pack(f"{order}HIH", 42, 8, len(entries)) + b"".join(entries) + bytes(4)
    mark = b"II" if order == "<" else b"MM"
    return (mark + head).ljust(start, b"\0") + struct.pack(f"{order}{channels}H", *[16] * channels) + content


DEEP = RNG.integers(0, 65536, (9, 14, 4)).astype(np.uint16)
# Where the upper byte alone would be one off.
DEEP[0, :4] = [[0x00FF, 0xFF00, 0x7F00, 0x01FF], [128, 129, 65407, 65406], [255, 256, 257, 65535], [0, 1, 65279, 33023]]


@pytest.mark.parametrize(
    ("data", "channels"),
    [
        (deep_png(DEEP[:, :, :3], 2), 3),
        (deep_png(DEEP, 6), 4),
        (deep_tiff(DEEP[:, :, :3], "<", False), 3),
        (deep_tiff(DEEP[:, :, :3], ">", False), 3),
        (deep_tiff(DEEP[:, :, :3], "<", True), 3),
        (deep_tiff(DEEP, ">", True), 4),
        (b"P6 14 9 65535\n" + DEEP[:, :, :3].astype(">u2").tobytes(), 3),
        (DEEP, 4),
    ],
)
def test_sixteen_bits_of_color_are_rounded_and_said(data, channels):
    image = from_array("init_image", data) if isinstance(data, np.ndarray) else decode(data)
    expected = np.rint(DEEP / 257).astype(np.uint8)
    np.testing.assert_array_equal(image.rgb, expected[:, :, :3])
    assert image.warnings == ("init_image: 16 bits a channel were scaled to 8",)
    if channels == 4:
        np.testing.assert_array_equal(image.alpha, expected[:, :, 3])
    else:
        assert image.alpha is None


def test_sixteen_bits_of_gray_and_alpha():
    image = decode(deep_png(DEEP[:, :, :2], 4))
    np.testing.assert_array_equal(image.gray, np.rint(DEEP[:, :, 0] / 257))
    np.testing.assert_array_equal(image.alpha, np.rint(DEEP[:, :, 1] / 257))
    assert image.is_gray
    assert image.warnings == ("init_image: 16 bits a channel were scaled to 8",)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("field", ["init_image", "mask_image"])
def test_a_transparent_gray_is_transparent_at_every_depth(bits, field):
    values = RNG.integers(0, 1 << bits, (9, 14)).astype(np.uint16)
    key = int(values[3, 3])
    image = from_bytes(field, deep_png(values, 0, bits, struct.pack(">H", key)), "it")
    np.testing.assert_array_equal(image.gray, np.rint(values * (255 / ((1 << bits) - 1))))
    np.testing.assert_array_equal(image.alpha, np.where(values == key, 0, 255))


def test_a_transparent_color_of_sixteen_bits_is_that_color_alone():
    values = DEEP[:, :, :3].copy()
    values[:2] = (4660, 22136, 39612)
    values[1, 0] = (4660, 22136, 39613)  # the same in 8 bits
    image = decode(deep_png(values, 2, 16, struct.pack(">HHH", 4660, 22136, 39612)))
    expected = np.full((9, 14), 255)
    expected[:2] = 0
    expected[1, 0] = 255
    np.testing.assert_array_equal(image.alpha, expected)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_palette_with_transparency_at_every_depth(bits):
    colors = RNG.integers(0, 256, (1 << bits, 3), dtype=np.uint8)
    alphas = RNG.integers(0, 256, 1 << bits, dtype=np.uint8)
    values = RNG.integers(0, 1 << bits, (9, 14)).astype(np.uint8)
    data = deep_png(values, 3, bits, alphas.tobytes())
    palette = struct.pack(">I", colors.nbytes) + b"PLTE" + colors.tobytes()
    palette += struct.pack(">I", zlib.crc32(palette[4:]))
    image = decode(data[:33] + palette + data[33:])
    np.testing.assert_array_equal(image.rgb, colors[values])
    np.testing.assert_array_equal(image.alpha, alphas[values])


def test_hash_is_of_the_alpha_too():
    a, b = (from_array("f", np.dstack((COLOR, alpha))) for alpha in (GRAY, GRAY ^ 1))
    assert a.sha256 != b.sha256
    gray = (Image.merge("LA", (Image.fromarray(GRAY), Image.fromarray(alpha))) for alpha in (GRAY, GRAY ^ 1))
    assert len({from_image("f", image).sha256 for image in gray}) == 2


@pytest.mark.parametrize("error", [MemoryError(), OSError("out of memory error when reading image file")])
def test_memory_that_runs_out_is_no_damage(monkeypatch, error):
    def fails(*arguments: object) -> None:
        raise error

    for name in ("decode", "channels_of", "levels_of"):
        monkeypatch.setattr(rgb_image, name, fails)
    for make in (
        lambda: decode(encoded(Image.fromarray(COLOR))),
        lambda: from_image("init_image", Image.fromarray(COLOR)),
        lambda: from_array("init_image", COLOR),
    ):
        with pytest.raises(
            OutOfMemory, match=r"^init_image: .* cannot be decoded: this machine's memory has run out$"
        ) as caught:
            make()
        assert classify(caught.value) == "memory"


def test_limits_of_pixels(monkeypatch):
    assert pixel_limit() == MAX_PIXELS == 8192 * 8192
    assert pixel_limit(5) == 5
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert (pixel_limit(), pixel_limit(5000)) == (1000, 5000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert pixel_limit() == float("inf")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "ICO"])
def test_the_limit_of_pixels_holds_in_every_format(format):
    data = encoded(Image.fromarray(COLOR), format)
    width, height = decode(data).size
    assert from_bytes("f", data, "it", max_pixels=width * height).size == (width, height)
    with pytest.raises(
        SourceError, match=rf"it has {width}x{height} pixels; the limit is 9 \(max_pixels, --max-pixels\)"
    ):
        from_bytes("f", data, "it", max_pixels=9)
    with pytest.raises(SourceError, match="the limit is 9"):
        from_image("f", Image.fromarray(COLOR), max_pixels=9)
    with pytest.raises(SourceError, match="the limit is 9"):
        from_array("f", COLOR, max_pixels=9)


def test_a_format_that_costs_more_may_have_fewer_pixels():
    data = encoded(Image.fromarray(COLOR), "JPEG2000")  # 14x9
    assert from_bytes("f", data, "it", max_pixels=4 * 126).size == (14, 9)
    with pytest.raises(SourceError, match="the limit is 125 for this format, 1/4"):
        from_bytes("f", data, "it", max_pixels=4 * 126 - 1)


def test_a_large_tiff_needs_nothing_of_pillows_own_limit(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9)
    for options in ({}, {"compression": "tiff_lzw"}):
        data = encoded(Image.fromarray(COLOR), "TIFF", **options)
        np.testing.assert_array_equal(from_bytes("f", data, "it", max_pixels=1000).rgb, COLOR)


def test_one_that_is_slow_to_open_does_not_keep_others_waiting(monkeypatch):
    slow, quick = encoded(Image.fromarray(GRAY)), encoded(Image.fromarray(COLOR))
    opening, go_on, real = threading.Event(), threading.Event(), decoding.unpack

    def unpack(data: bytes) -> Any:
        if data == slow:
            opening.set()
            assert go_on.wait(60)
        return real(data)

    monkeypatch.setattr(decoding, "unpack", unpack)
    thread = threading.Thread(target=lambda: decode(slow))
    thread.start()
    try:
        assert opening.wait(60)
        assert decode(quick).size == (14, 9)
    finally:
        go_on.set()
        thread.join()


@pytest.mark.parametrize("mode", ["F", "I", "I;16"])
def test_deep_gray_is_converted_in_strips(mode):
    values = np.zeros((2048, 2048), {"F": np.float32, "I": np.int32, "I;16": np.uint16}[mode])
    image = Image.fromarray(values)
    tracemalloc.start()
    try:
        from_image("f", image)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < values.size * 2 + (8 << 20)  # Pillow's own memory is not in it


def test_arrays_of_floats_are_converted_in_strips():
    array = np.zeros((2048, 2048))
    tracemalloc.start()
    try:
        from_array("f", array)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < array.size * 5 + (8 << 20)


def test_every_format_that_this_pillow_reads_has_its_decoder():
    Image.init()
    assert list(decoding.decoders()) == [name for name in decoding.FORMATS if name in Image.OPEN]
