"""Folders as a manifest: what decodes is taken, what is left out is named, and no image is its own mask."""

from __future__ import annotations

import io
import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from intarsia import batch
from intarsia.batch.manifest import folders
from intarsia.batch.manifest.reader import Manifest
from intarsia.errors import RequestError
from tests.batch.conftest import image_hashes, lines

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)


def encoded(kind: str) -> bytes:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Two folders, the masks' with one mask that fits all."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    mask = np.zeros((16, 16), np.uint8)
    mask[4:12, 4:12] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path


def listed(place: Path, masks: str = "mask.png", out: Path | None = None) -> tuple[dict[str, Any], list[str]]:
    """Rows by id → their problems, and what is said of what is left out and of what is alone."""
    manifest = Manifest(batch.Pair(place / "images", place / masks), out=out)
    prefix = f"{place}/"
    assert all(note.startswith(prefix) for note in manifest.notes)
    return {line.fields["id"]: line.problem for line in manifest}, [note[len(prefix) :] for note in manifest.notes]


def test_the_content_decides_and_the_rest_is_named(place, monkeypatch):
    monkeypatch.setattr(folders, "has_heif", lambda: False)
    images, other = place / "images", place / "other"
    png, jpeg = encoded("PNG"), encoded("JPEG")
    taken = {
        "plain.jpg": jpeg, "download.jfif": jpeg, "scan.jpe": jpeg, "loop.apng": png, "no-extension": png,
        "odd.dat": encoded("WEBP"), "SHOT.PNG": png, "gray.pbm": encoded("PPM"), "v1.5": encoded("BMP"),
        "damaged.png": b"text", "empty.jpg": b"", "scan": encoded("TIFF"),
    }  # fmt: skip
    left_out = {
        "notes.txt": b"BMW and P5 are words", "raw.nef": encoded("TIFF"),
        "nothing": b"", "clip.mp4": b"\0\0\0\x18ftypmp42" + bytes(64), "drawing.svg": b"<svg/>",
    }  # fmt: skip
    heic = {"IMG_1.HEIC": HEIC, "IMG_2": HEIC}
    hidden = [".DS_Store", "._plain.jpg", "Thumbs.db", "desktop.ini", ".hidden.png"]
    for name, data in {**taken, **left_out, **heic, **dict.fromkeys(hidden, png)}.items():
        (images / name).write_bytes(data)
    for name in (".thumbnails", "@eaDir", "deep/er", "done"):
        (images / name).mkdir(parents=True)
        (images / name / "x.png").write_bytes(png)
    (images / "done/results-1-of-2.jsonl").write_text("")
    other.mkdir()
    (other / "linked.png").write_bytes(png)
    os.symlink(other / "linked.png", images / "link.png")
    os.symlink(other, images / "album")
    os.symlink(images, images / "round")
    os.symlink("loop", images / "loop")
    os.symlink("/nowhere/annex-key", images / "annexed.png")
    rows, notes = listed(place)
    assert set(rows) == {*taken, "deep/er/x.png", "link.png"}
    counted = "1 .mp4, 1 .svg, 1 .txt, 1 no extension, 1 .nef"
    kinds = [
        "HEIC, which needs pip install 'intarsia[heif]' (2): 'IMG_1.HEIC', 'IMG_2'",
        "a link to a folder, which is not followed (2): 'album', 'round'",
        "a link to nothing (2): 'annexed.png', 'loop'",
        "hidden (7): '.DS_Store', '._plain.jpg', '.hidden.png', '.thumbnails', '@eaDir', 'Thumbs.db', 'desktop.ini'",
        f"no image of a kind that is read ({counted}): 'clip.mp4', 'drawing.svg', 'notes.txt', 'nothing', 'raw.nef'",
        "outputs of another run (1): 'done'",
    ]
    assert notes == [f"images: 19 left out: {'; '.join(kinds)}"]


def test_what_is_left_out_is_said_before_the_work(album, tmp_path):
    (album.folder / "photos/IMG_1.raw").write_bytes(b"raw")
    (album.folder / "masks/6.png").write_bytes((album.folder / "masks/0.png").read_bytes())
    (album.folder / "defaults.toml").write_text("steps = 2\nwidth = 64\nheight = 64\n")
    where = ["--images", album.folder / "photos", "--masks", album.folder / "masks", "--prompt", "a tree"]
    sentences = [
        f"{album.folder}/photos: 1 left out: no image of a kind that is read (1 .raw): 'IMG_1.raw'",
        f"{album.folder}/masks: 1 mask without an image: '6.png'",
    ]
    done = album.call("run", *where, "--out", tmp_path / "out", "--backend", "null", "--defaults", "defaults.toml")
    assert (done.returncode, done.stderr.splitlines()) == (0, sentences)
    done = album.call("validate", *where)
    assert (done.returncode, done.stdout.splitlines()) == (0, [*sentences, "6 rows, 0 with problems"])
    done = album.call("validate", *where, "--json")
    assert json.loads(done.stdout) == {"schema": 2, "rows": 6, "problems": [], "notes": sentences}


def test_many_names_are_counted(place):
    for number in range(25):
        (place / f"images/{number:02}.txt").write_bytes(b"text")
    rows, (note,) = listed(place)
    assert rows == {}
    assert note.endswith("'19.txt' and 5 more")
    assert note.startswith("images: 25 left out: no image of a kind that is read (25 .txt): ")
    assert note.count(".txt'") == 20
    pair = batch.Pair(place / "images", place / "mask.png")
    with pytest.raises(RequestError, match=r"there are no images in this folder; .*25 left out: no image.*'00.txt'"):
        batch.validate(pair)


def test_a_folder_that_cannot_be_read_is_named(place, monkeypatch):
    (place / "images/locked").mkdir()
    real = os.scandir

    def scandir(path: Path) -> Any:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert listed(place)[1] == ["images: 1 left out: cannot be read (Permission denied) (1): 'locked'"]


COMPOSED, DECOMPOSED = unicodedata.normalize("NFC", "bébé"), unicodedata.normalize("NFD", "bébé")


@pytest.mark.parametrize(
    ("image", "masks", "found"),
    [
        ("cat.JPG", ["cat.PNG"], "cat.PNG"),
        (f"{COMPOSED}.png", [f"{DECOMPOSED}.png"], f"{DECOMPOSED}.png"),
        (f"{DECOMPOSED}.jpg", [f"{COMPOSED}.png"], f"{COMPOSED}.png"),
        ("IMG_1.JPG", ["img_1.png"], "img_1.png"),
        ("IMG_1.JPG", ["img_1.png", "IMG_1.png"], "IMG_1.png"),
        (f"{COMPOSED}.png", [f"{DECOMPOSED}.png", f"{COMPOSED}.png"], f"{COMPOSED}.png"),
        ("v1.5", ["v1.5.png"], "v1.5.png"),
        ("v1.5", ["v1.5"], "v1.5"),
        ("cat.dat", ["cat.png"], "cat.png"),
        ("cat.v2.png", ["cat.v2.png", "cat.png"], "cat.v2.png"),
        ("cat.v2.png", ["cat.png"], None),
        ("cat.jpg", ["cat_mask.png"], "cat_mask.png"),
        ("cat.jpg", ["cat_mask.png", "cat.webp"], "cat.webp"),
        ("CAT.jpg", ["cat-Mask007.png"], "cat-Mask007.png"),
        ("a/cat.jpg", ["b/cat_mask.png"], None),
        ("cat.jpg", ["cat_masks.png", "_mask.png"], None),
        ("cat.png", ["cat.png", "cat.webp"], "more than one mask: cat.png, cat.webp"),
        ("IMG.png", ["img.png", "Img.webp"], "more than one mask: Img.webp, img.png"),
        ("deep/cat.png", ["cat.png"], None),
        ("Deep/cat.png", ["deep/CAT.png"], "deep/CAT.png"),
    ],
)
def test_the_mask_of_an_image(place, image, masks, found):
    for folder, names in (("images", [image]), ("masks", masks)):
        for name in names:
            (place / folder / name).parent.mkdir(exist_ok=True)
            (place / folder / name).write_bytes(encoded("PNG"))
    (line,) = Manifest(batch.Pair(place / "images", place / "masks"))
    if found is None:
        assert "has no mask of that name" in line.problem
    elif "more than one" in found:
        assert found in line.problem
    else:
        assert line.problem == ""
        assert line.fields["mask_image"] == str(place / "masks" / found)
        assert line.fields["init_image"] == image


def test_images_of_other_forms_of_unicode_are_done(album, tmp_path):
    (album.folder / "photos/0.png").rename(album.folder / f"photos/{COMPOSED}.png")
    (album.folder / "masks/0.png").rename(album.folder / f"masks/{DECOMPOSED}.png")
    (album.folder / "defaults.toml").write_text("steps = 2\nwidth = 64\nheight = 64\n")
    options = album.with_options(defaults=str(album.folder / "defaults.toml"))
    batch.run(batch.Pair(album.folder / "photos", album.folder / "masks"), tmp_path / "out", options)
    assert f"{COMPOSED}.png" in image_hashes(tmp_path / "out")


@pytest.mark.parametrize("spelling", ["images", "images/", "images/../images", "same", "same/."])
def test_one_folder_for_both_needs_names_of_masks(place, spelling):
    """Without them each image would be its own mask."""
    (place / "images/cat.png").write_bytes(encoded("PNG"))
    os.symlink("images", place / "same")
    for images, masks in [(place / "images", place / spelling), (place / spelling, place / "images")]:
        for call in (batch.validate, lambda pair: batch.run(pair, place / "out")):
            with pytest.raises(RequestError, match="no file in this folder is called like a mask"):
                call(batch.Pair(images, masks))
    assert not (place / "out").exists()

    (place / "images/cat_mask.png").write_bytes(encoded("PNG"))
    (line,) = Manifest(batch.Pair(place / "images", place / spelling))
    assert (line.fields["id"], line.problem) == ("cat.png", "")


def test_masks_beside_their_images(place):
    """The convention of A1111 and of LaMa's sets; what is alone is named on either side."""
    names = [
        "cat.jpg", "cat_mask.png", "Dog.png", "dog-MASK.webp", "one.png", "one_mask001.png", "in/deep.png",
        "in/deep_mask.png", "two.png", "two_mask1.png", "two_mask2.png", "bare.png", "lost_mask.png", "mask.png",
    ]  # fmt: skip
    for name in names:
        (place / "images" / name).parent.mkdir(exist_ok=True)
        (place / "images" / name).write_bytes(encoded("PNG"))
    (place / "images/notes.txt").write_text("text")

    manifest = Manifest(batch.Pair(place / "images", place / "images"))
    found = {line.fields["id"]: line for line in manifest}
    masks = {name: line.fields["mask_image"] for name, line in found.items() if not line.problem}
    assert masks == {
        name: str(place / "images" / mask)
        for name, mask in {
            "cat.jpg": "cat_mask.png", "Dog.png": "dog-MASK.webp", "one.png": "one_mask001.png",
            "in/deep.png": "in/deep_mask.png",
        }.items()
    }  # fmt: skip
    folder = place / "images"
    assert {name: line.problem for name, line in found.items() if line.problem} == {
        "two.png": "two.png has more than one mask: two_mask1.png, two_mask2.png",
        "bare.png": f"bare.png has no mask of that name in {folder}",
        "mask.png": f"mask.png has no mask of that name in {folder}",
    }
    assert manifest.notes == (
        f"{folder}: 1 left out: no image of a kind that is read (1 .txt): 'notes.txt'",
        f"{folder}: 1 mask without an image: 'lost_mask.png'",
        f"{folder}: 2 images without a mask: 'bare.png', 'mask.png'",
    )


@pytest.mark.slow
def test_a_missing_mask_is_of_one_class_in_folders_and_in_rows(album, tmp_path):
    (album.folder / "masks/0.png").unlink()
    where = ["--images", album.folder / "photos", "--masks", album.folder / "masks", "--prompt", "x", "--steps", "2"]
    album.call("run", *where, "--size", "64x64", "--out", tmp_path / "folders", "--backend", "null")
    [failed] = batch.report(tmp_path / "folders")["failed"]
    batch.run(album.manifest([album.row(0, mask_image=None)]), tmp_path / "rows", album.options)
    [row] = batch.report(tmp_path / "rows")["failed"]
    assert (failed["id"], failed["error"], row["error"]) == ("0.png", "mask", "mask")

    (album.folder / "masks/0_mask.png").write_bytes((album.folder / "masks/1.png").read_bytes())
    retry = ("retry", *where, "--size", "64x64", "--out", tmp_path / "folders", "--backend", "null", "--class", "mask")
    assert album.call(*retry).stdout.splitlines()[0] == "1 row: 1 error"  # of another shape: it was taken up


def test_no_image_is_its_own_mask(place):
    """By a link, by a second name of the file, or as the one mask for all that lies among them."""
    for name in ("link.png", "hard.png", "own.png"):
        (place / "images" / name).write_bytes(encoded("PNG"))
    os.symlink("../images/link.png", place / "masks/link.png")
    os.link(place / "images/hard.png", place / "masks/hard.webp")
    (place / "masks/own.png").write_bytes(encoded("PNG"))
    rows, _ = listed(place, "masks")
    assert {name: "is its own mask" in problem for name, problem in rows.items()} == {
        "link.png": True, "hard.png": True, "own.png": False,
    }  # fmt: skip
    assert rows["own.png"] == ""
    rows, notes = listed(place, "images/hard.png")
    assert set(rows) == {"link.png", "own.png"}
    assert notes == ["images: 1 left out: the mask (1): 'hard.png'"]


def test_folders_in_one_another(place):
    for name in ("images/a.png", "images/masks/a.png", "images/masks/more/b.png", "images/out/a.png", "images/b/a.png"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(encoded("PNG"))
    rows, notes = listed(place, "images/masks", place / "images/out")
    assert list(rows) == ["a.png", "b/a.png"]
    assert notes == ["images/masks: 1 mask without an image: 'more/b.png'", "images: 1 image without a mask: 'b/a.png'"]
    assert rows["a.png"] == ""
    # the images in the folder of masks
    manifest = Manifest(batch.Pair(place / "images/masks", place / "images"))
    assert [line.problem.partition(" in ")[0] for line in manifest] == ["", "more/b.png has no mask of that name"]


def test_a_mask_that_is_the_image_is_said_in_the_results(album, tmp_path):
    """A manifest may ask for it, as for an image whose transparency is its mask."""
    Image.fromarray(np.full((32, 32, 3), 200, np.uint8)).save(album.folder / "photos/bright.png")
    same = {"init_image": "photos/bright.png", "mask_image": "photos/bright.png"}
    batch.run(album.manifest([album.row(0), album.row(2, **same)]), tmp_path / "out", album.options)
    made = {line["id"]: line for line in lines(tmp_path / "out")}
    assert "warnings" not in made["row-0"]
    assert "mask_image is the very image that is repainted" in made["row-2"]["warnings"][0]


def test_what_counts_as_an_extension_is_what_pillow_writes_our_formats_under():
    from intarsia.images.rgb_image import FORMATS

    Image.init()
    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS}
    assert known <= folders.SUFFIXES
