"""HEIC: known by its brands, refused with the name of what is missing, decoded as other files are where it is there."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from intarsia.errors import SourceError
from intarsia.images import heif_decoder
from intarsia.images.containers.heif import is_heif, unpack
from intarsia.images.rgb_image import from_bytes


def ftyp(*brands: bytes) -> bytes:
    """A file's first box; the second of its fields is a version."""
    content = brands[0] + bytes(4) + b"".join(brands[1:])
    return (8 + len(content)).to_bytes(4, "big") + b"ftyp" + content


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (ftyp(b"heic", b"mif1"), True),
        (ftyp(b"mif1", b"heix"), True),
        (ftyp(b"msf1", b"hevc"), True),
        (ftyp(b"mp42", b"isom"), False),
        (ftyp(b"mif1") + b"heic", False),  # behind the box
        (b"\0\0\0\x14ftypmif1heic" + bytes(4), False),  # in place of the version
        (b"\0\0\0\x01ftypheic", False),
        (b"ftyp", False),
        (b"", False),
    ],
)
def test_brands(data, expected):
    assert is_heif(data) is expected


def test_bits_of_a_channel_are_read_from_the_configuration():
    configuration = bytes([1, *bytes(16), 0b11111010, *bytes(5)])
    assert unpack(ftyp(b"heic") + b"hvcC" + configuration).bits == 10
    assert unpack(ftyp(b"heic") + b"hvcC").bits == 8


def test_without_the_package_the_refusal_names_it(monkeypatch):
    monkeypatch.setattr(heif_decoder, "has_heif", lambda: False)
    sentence = r"^init_image: 'x.heic' is HEIC, which needs pip install 'intarsia\[heif\]'$"
    with pytest.raises(SourceError, match=sentence):
        from_bytes("init_image", ftyp(b"heic", b"mif1") + bytes(64), "'x.heic'")


BLOCKS = np.kron(np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8), np.ones((16, 16, 1), np.uint8))


def heic(image: Image.Image, **options: object) -> bytes:
    """The image as HEIC."""
    pillow_heif = pytest.importorskip("pillow_heif", reason="pip install 'intarsia[heif]'")
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, quality=95, **options)
    return buffer.getvalue()


def test_pixels_transparency_and_profile():
    alpha = BLOCKS[:, :, :1]
    read = from_bytes("init_image", heic(Image.fromarray(np.dstack([BLOCKS, alpha]))), "it")
    assert np.abs(read.rgb.astype(int) - BLOCKS).mean() < 2
    assert read.alpha is not None
    assert np.abs(read.alpha.astype(int) - alpha[:, :, 0]).mean() < 1
    assert read.warnings == ()


def test_it_is_turned_upright_once():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = heic(Image.fromarray(BLOCKS), exif=exif.tobytes())
    upright = from_bytes("init_image", data, "it")
    assert upright.size == (96, 128)
    assert np.abs(upright.rgb.astype(int) - np.rot90(BLOCKS, -1)).mean() < 2


def test_more_bits_are_said_to_be_cut():
    pillow_heif = pytest.importorskip("pillow_heif", reason="pip install 'intarsia[heif]'")
    deep = BLOCKS.astype(np.uint16) * 257
    buffer = io.BytesIO()
    pillow_heif.from_bytes(mode="RGB;16", size=(128, 96), data=deep.tobytes()).save(buffer, quality=95)
    read = from_bytes("init_image", buffer.getvalue(), "it")
    assert read.warnings == ("init_image: 10 bits a channel were cut to 8",)
    assert np.abs(read.rgb.astype(int) - BLOCKS).mean() < 2


def test_damage_and_size_are_this_files_error_and_no_other():
    data = heic(Image.fromarray(BLOCKS))
    for end in (40, 100, 400, len(data) // 2, len(data) - 10):
        with pytest.raises(SourceError, match=r"^init_image: it is (truncated or )?damaged"):
            from_bytes("init_image", data[:end], "it")
    with pytest.raises(SourceError, match="has 128x96 pixels; the limit is 100"):
        from_bytes("init_image", data, "it", max_pixels=100)
    assert "HEIF" not in Image.OPEN  # Pillow's own list stays as it is
