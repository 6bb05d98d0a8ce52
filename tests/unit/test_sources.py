"""Sources: every accepted form gives the same image; everything else is refused by name, in one line."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from intarsia.errors import SourceError
from intarsia.images.access import Access
from intarsia.images.sources import MAX_BYTES, open_image, read_source


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (13, 17, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def refusal(value: object, access: Access = Access()) -> str:
    with pytest.raises(SourceError) as caught:
        open_image("init_image", value, access)
    message = str(caught.value)
    assert message.startswith("init_image: ")
    assert "\n" not in message
    assert len(message) < 400
    assert caught.value.field == "init_image"
    return message


def data_uri_forms(png: bytes) -> list[str]:
    text = base64.b64encode(png).decode()
    safe = base64.urlsafe_b64encode(png).decode().rstrip("=")
    wrapped = "\n".join(text[i : i + 60] for i in range(0, len(text), 60))
    return [
        f"data:image/png;base64,{text}",
        f"data:image/png;base64, {text}",
        f"  DATA:image/PNG;BASE64,{text}\n",
        f"data:image/jpeg;charset=x;base64,{text}",
        f"data:;base64,{safe}",
        f"data:image/png;base64,{wrapped}",
        f"data:image/png;base64,{quote(text)}",
        f"data:image/png;base64,{quote(wrapped, safe='')}",
        f'data:image/png;charset="utf-8";base64,{text}',
        f"\ufeffdata:image/png;base64,{text}",
        "data:image/png," + quote(png),
    ]


@pytest.mark.parametrize("form", range(11))
@pytest.mark.parametrize("allow_paths", [True, False])
def test_a_data_uri_in_any_form_gives_its_image(png, pixels, form, allow_paths):
    image = open_image("init_image", data_uri_forms(png)[form], Access(allow_paths=allow_paths))
    np.testing.assert_array_equal(image.rgb, pixels)
    assert image.path is None


@pytest.mark.parametrize("allow_paths", [True, False])
def test_raw_base64_short_and_long(png, pixels, allow_paths):
    big = np.random.default_rng(2).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(big).save(buffer, "PNG")
    for data, expected in ((png, pixels), (buffer.getvalue(), big)):
        standard = base64.b64encode(data).decode()
        for text in (
            standard,
            standard.rstrip("="),
            base64.urlsafe_b64encode(data).decode(),
            f" {standard}\n",
            f"\ufeff{standard}",
        ):
            image = open_image("init_image", text, Access(allow_paths=allow_paths))
            np.testing.assert_array_equal(image.rgb, expected)


def test_jpeg_base64_that_begins_like_an_absolute_path(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    text = base64.b64encode(buffer.getvalue()).decode()
    assert text.startswith("/9j/")
    assert open_image("init_image", text).size == (17, 13)


def test_paths_give_the_image_and_its_stem(png, pixels, tmp_path, monkeypatch):
    file = tmp_path / "a photo.v2.png"
    file.write_bytes(png)
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in (file, str(file), "~/a photo.v2.png"):
        image = open_image("init_image", value)
        np.testing.assert_array_equal(image.rgb, pixels)
        assert image.stem == "a photo.v2"
    monkeypatch.chdir(tmp_path)
    assert open_image("init_image", "a photo.v2.png").path == "a photo.v2.png"


def test_a_file_whose_name_is_base64_is_a_path(png, pixels, tmp_path, monkeypatch):
    (tmp_path / "iVBORw0K").write_bytes(png)
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(open_image("init_image", "iVBORw0K").rgb, pixels)


def test_bytes_images_and_arrays_are_equal_images(png, pixels, tmp_path):
    (tmp_path / "x.png").write_bytes(png)
    forms = [png, bytearray(png), memoryview(png), Image.fromarray(pixels), pixels, tmp_path / "x.png"]
    assert len({open_image("init_image", form).sha256 for form in forms}) == 1


def test_paths_are_refused_where_a_request_came_over_a_network(tmp_path, png):
    file = tmp_path / "x.png"
    file.write_bytes(png)
    assert "paths are not read here" in refusal(str(file), Access(allow_paths=False))
    assert "paths are not read here" in refusal(file, Access(allow_paths=False))
    assert "not an image" in refusal("photos/cat", Access(allow_paths=False))  # valid base64 of something else


@pytest.mark.parametrize("value", ["ftp://x/y.png", "file:///etc/passwd", "s3://bucket/key.png"])
def test_other_schemes_than_http_are_refused(value):
    assert "addresses are not read, only http and https" in refusal(value)


def test_missing_files_are_refused_as_not_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for value in ("nowhere.png", "photos/cat", "abcd", tmp_path / "no" / "x.png", "iVBORw0K/../x"):
        assert "file not found" in refusal(value)


def test_what_is_no_readable_file_is_refused_with_the_reason(tmp_path):
    assert "is a folder" in refusal(str(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refusal(tmp_path / "pipe")
    assert "cannot be read" in refusal("nul\0character.png")
    (tmp_path / "file").write_bytes(b"")
    assert "is empty (0 bytes)" in refusal(tmp_path / "file")
    assert "cannot be read: Not a directory" in refusal(tmp_path / "file" / "x.png")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "cannot be read" in refusal(tmp_path / "loop")


def test_a_file_without_permission_is_refused(tmp_path, monkeypatch, png):
    file = tmp_path / "x.png"
    file.write_bytes(png)

    def refuse(*_args: object, **_more: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)  # chmod does not stop the superuser
    assert refusal(file) == f"init_image: {str(file)!r} cannot be read: Permission denied"


def test_enormous_files_are_refused_unread(tmp_path):
    with open(tmp_path / "big.png", "wb") as file:
        file.truncate(MAX_BYTES + 1)
    assert f"at most {MAX_BYTES}" in refusal(tmp_path / "big.png")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", "is empty"),
        ("   ", "is empty"),
        ("data:image/png;base64", "has no comma"),
        ("data:image/png;base64,", "is empty (0 bytes)"),
        ("data:image/png;base64,ab*d", "not valid base64"),
        ("data:image/png;base64,abcde", "not valid base64"),
        ("x" * 5000, "not an image"),
        ("!" * 5000, "is not a path, URL, data URI or base64"),
        (None, "not NoneType"),
        (7, "not int"),
        ({"image": 1}, "not dict"),
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>", "an HTML page"),
        (b"\n  <html>", "an HTML page"),
        (b'<?xml version="1.0"?><svg/>', "an SVG drawing"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        (b"Not found\n", "but text"),
        (b"\x00\x01\x02\xff\xfe" * 9, "unknown kind"),
    ],
)
def test_what_is_not_an_image(value, expected):
    assert expected in refusal(value)


def test_long_values_are_cut_in_messages():
    assert len(refusal("data:image/png;base64,*" + "A" * 1_000_000)) < 250


def test_source_says_what_it_was(png, tmp_path):
    (tmp_path / "x.png").write_bytes(png)
    assert read_source("f", tmp_path / "x.png").path == str(tmp_path / "x.png")
    assert read_source("f", png).path is None
    assert read_source("f", Path(tmp_path / "x.png")).content == png
    assert "truncated" in refusal(png[:-30])
