"""Output: formats, metadata, names, and files that appear whole or not at all."""

from __future__ import annotations

import errno
import io
import json
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from intarsia.errors import OutputError
from intarsia.images import save as output
from intarsia.images.encode import SaveOptions, encode
from intarsia.images.fill import FAINT
from intarsia.images.metadata import a1111_parameters
from intarsia.images.output_names import output_paths
from intarsia.images.save import check_outputs, save, save_all, write

PIXELS = np.random.default_rng(4).integers(0, 256, (20, 30, 4), dtype=np.uint8)
PROFILE = b"\0" * 16 + b"RGB " + b"\0" * 200
LOSSY = "JPEG is lossy: pixels outside the mask are not exactly the input's"
META = {
    "prompt": "a red circle, ünïcode 円",
    "negative_prompt": "blurry",
    "model": "intarsia-tiny",
    "model_hash": "0123456789abcdef",
    "width": 512,
    "height": 384,
    "seed": 7,
    "steps": 21,
    "guidance_scale": 7.5,
    "strength": 1.0,
    "scheduler": "DPMSolverMultistepScheduler",
    "karras_sigmas": True,
    "algorithm_type": "sde-dpmsolver++",
    "clip_skip": 2,
    "mask_blur": 4.0,
    "version": "0.1.0",
}


def an_image(channels: int = 3) -> Image.Image:
    image = Image.fromarray(PIXELS[:, :, :channels])
    image.info["icc_profile"] = PROFILE
    image.info["parameters"] = "of the input"
    return image


def listing(folder: Path) -> set[str]:
    return set(os.listdir(folder))


def test_parameters_are_written_as_the_webui_writes_them():
    assert a1111_parameters(META) == (
        "a red circle, ünïcode 円\n"
        "Negative prompt: blurry\n"
        "Steps: 21, Sampler: DPM++ 2M SDE, Schedule type: Karras, CFG scale: 7.5, Seed: 7, Size: 512x384, "
        "Model hash: 0123456789, Model: intarsia-tiny, Denoising strength: 1, Clip skip: 2, Mask blur: 4, "
        "Version: 0.1.0"
    )


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({}, "\n"),
        ({"seed": 0, "strength": 0.0}, "\nSeed: 0, Denoising strength: 0"),
        ({"scheduler": "PNDMScheduler"}, "\nSampler: PLMS"),
        ({"scheduler": "OtherScheduler", "karras_sigmas": True}, "\nSampler: OtherScheduler, Schedule type: Karras"),
        ({"model": "a, b: c"}, '\nModel: "a, b: c"'),
        ({"prompt": "x\ud800y", "negative_prompt": None}, "x\ufffdy\n"),
    ],
)
def test_parameters_text_of_part_of_it(meta, expected):
    assert a1111_parameters(meta) == expected


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_is_exact_and_carries_profile_and_text(tmp_path, channels):
    image = an_image(channels) if channels > 1 else Image.fromarray(PIXELS[:, :, 0])
    text = a1111_parameters(META)
    assert save(image, tmp_path / "x.png", metadata=META, parameters=text) == ()
    with Image.open(tmp_path / "x.png") as again:
        np.testing.assert_array_equal(np.asarray(again), np.asarray(image))
        assert again.info.get("icc_profile") == image.info.get("icc_profile")
        assert again.text["parameters"] == text
        assert json.loads(again.text["intarsia"]) == META
        assert set(again.text) == {"parameters", "intarsia"}
    assert listing(tmp_path) == {"x.png"}


def test_what_was_written_is_what_is_on_the_disk(tmp_path):
    written = write(an_image(4), tmp_path / "x.jpg", metadata=META)
    assert written.data == (tmp_path / "x.jpg").read_bytes()
    assert written.warnings == (LOSSY, "JPEG has no transparency: the alpha channel was left out")


@pytest.mark.parametrize("ext", [".png", ".jpg", ".webp"])
def test_without_metadata_nothing_is_written_and_the_inputs_own_is_not_copied(tmp_path, ext):
    source = io.BytesIO()
    old = PngImagePlugin.PngInfo()
    old.add_text("parameters", "of the input")
    exif = Image.Exif()
    exif[0x010E] = "of the input"
    Image.fromarray(PIXELS[:, :, :3]).save(source, "PNG", pnginfo=old, exif=exif)
    with Image.open(source) as image:
        save(image, tmp_path / f"x{ext}")
    assert b"of the input" not in (tmp_path / f"x{ext}").read_bytes()
    with Image.open(tmp_path / f"x{ext}") as again:
        assert not getattr(again, "text", {})
        assert not again.getexif()


@pytest.mark.parametrize("ext", [".jpg", ".JPEG", ".webp"])
def test_jpeg_and_webp_carry_exif_and_profile(tmp_path, ext):
    text = a1111_parameters(META)
    assert save(an_image(), tmp_path / f"x{ext}", metadata=META, parameters=text) == (
        () if ext == ".webp" else (LOSSY,)
    )
    with Image.open(tmp_path / f"x{ext}") as again:
        assert again.info["icc_profile"] == PROFILE
        block = again.getexif()
        assert json.loads(block[0x9213]) == META
        comment = block.get_ifd(0x8769)[0x9286]
    assert comment[:8] == b"UNICODE\0"
    assert comment[8:].decode("utf-16-be") == text


def test_jpeg_drops_alpha_and_says_so(tmp_path):
    warnings = save(an_image(4), tmp_path / "x.jpg", options=SaveOptions(quality=100))
    assert warnings == (LOSSY, "JPEG has no transparency: the alpha channel was left out")
    with Image.open(tmp_path / "x.jpg") as again:
        assert again.mode == "RGB"
        seen = PIXELS[:, :, 3] >= FAINT  # what is hidden takes colors from around it
        assert np.abs(np.asarray(again).astype(int) - PIXELS[:, :, :3])[seen].mean() < 4


def test_webp_is_exact_even_under_transparency(tmp_path):
    image = PIXELS.copy()
    image[:10, :, 3] = 0
    assert save(Image.fromarray(image), tmp_path / "x.webp") == ()
    with Image.open(tmp_path / "x.webp") as again:
        np.testing.assert_array_equal(np.asarray(again), image)


def test_webp_with_loss_says_so(tmp_path):
    (warning,) = save(an_image(), tmp_path / "x.webp", options=SaveOptions(lossless=False))
    assert "not exactly the input's" in warning
    with Image.open(tmp_path / "x.webp") as again:
        assert (np.asarray(again.convert("RGB")) != PIXELS[:, :, :3]).any()


def test_images_that_belong_together_are_all_there_or_none(tmp_path):
    (tmp_path / "kept.png").write_bytes(b"of before")
    paths = [tmp_path / name for name in ("1.png", "kept.png", "2.png", "kept.png/3.png")]
    options = SaveOptions(overwrite=True)
    with pytest.raises(OutputError, match="is no folder"):
        save_all([(an_image(), path) for path in paths], [{}] * 4, options)
    assert listing(tmp_path) == {"kept.png"}
    assert save_all([(an_image(), path) for path in paths[:3]], [{}] * 3, options) == ()
    assert listing(tmp_path) == {"1.png", "kept.png", "2.png"}


def test_what_a_killed_process_left_is_removed_by_the_next_that_writes_there(tmp_path):
    left = tmp_path / ".intarsia-0123456789abcdef.part"
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    save_all([(an_image(), tmp_path / "x.png")], [{}])
    assert listing(tmp_path) == {"x.png"}


def test_quality_and_compression_matter():
    sizes = [len(encode(an_image(), "JPEG", options=SaveOptions(quality=q))[0]) for q in (20, 95)]
    assert sizes[0] < sizes[1]
    flat = Image.fromarray(np.zeros((99, 99, 3), np.uint8))
    sizes = [len(encode(flat, "PNG", options=SaveOptions(compression=c))[0]) for c in (9, 0)]
    assert sizes[0] < sizes[1]


def test_metadata_too_long_for_jpeg(tmp_path):
    warnings = save(an_image(), tmp_path / "x.jpg", metadata={"a": "x" * 70000}, parameters="short")
    assert any("only the parameters" in text for text in warnings)
    warnings = save(an_image(), tmp_path / "y.jpg", metadata={}, parameters="x" * 70000)
    assert any("left out" in text for text in warnings)
    assert save(an_image(), tmp_path / "z.png", metadata={"a": "x" * 70000}, parameters="x" * 70000) == ()


def test_format_by_name_beats_the_extension(tmp_path):
    save(an_image(), tmp_path / "x.out", format="webp")
    with Image.open(tmp_path / "x.out") as again:
        assert again.format == "WEBP"
    with pytest.raises(OutputError, match="one of PNG, JPEG, WEBP, not 'gif'"):
        save(an_image(), tmp_path / "y.png", format="gif")


def test_names_are_numbered_and_have_the_format_as_their_extension(tmp_path):
    assert output_paths("photo", tmp_path, 1) == [tmp_path / "photo.png"]
    assert output_paths("a.b", tmp_path, 3, "jpg") == [tmp_path / f"a.b-{n}.jpg" for n in (1, 2, 3)]
    assert output_paths("photo ", tmp_path, 2, ".PNG") == [tmp_path / "photo -1.PNG", tmp_path / "photo -2.PNG"]
    for stem in ("", ".", "..", "a/b", "x\0"):
        with pytest.raises(OutputError, match="file name"):
            output_paths(stem, tmp_path, 1)
    with pytest.raises(OutputError, match=r"must be one of .png, .jpg, .jpeg, .webp"):
        output_paths("x", tmp_path, 1, "gif")


def test_what_is_there_is_never_replaced_unasked(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(b"precious")
    for call in (lambda: save(an_image(), path), lambda: check_outputs([path])):
        with pytest.raises(OutputError, match="already there"):
            call()
        assert path.read_bytes() == b"precious"
    check_outputs([path], overwrite=True)
    save(an_image(), path, options=SaveOptions(overwrite=True))
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert listing(tmp_path) == {"x.png"}


def test_a_dangling_link_is_not_followed(tmp_path):
    (tmp_path / "x.png").symlink_to(tmp_path / "elsewhere.png")
    with pytest.raises(OutputError, match="already there"):
        save(an_image(), tmp_path / "x.png")
    assert not (tmp_path / "elsewhere.png").exists()


def test_what_cannot_be_written_is_refused_before_the_work(tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").write_bytes(b"")
    for path, expected in (
        (tmp_path / "folder.png", "it is a folder"),
        (tmp_path / "file" / "x.png", "file is no folder"),
        (tmp_path / "file" / "no" / "x.png", "file is no folder"),
        (tmp_path / "x.gif", "the extension must be one of"),
        (tmp_path / "x", "the extension must be one of"),
        (tmp_path / ("x" * 300 + ".png"), "cannot be written"),
    ):
        for call in (
            check_outputs,
            lambda paths: save(an_image(), paths[0], options=SaveOptions(overwrite=True)),
        ):
            with pytest.raises(OutputError, match=expected) as caught:
                call([path])
            assert "\n" not in str(caught.value)
    assert listing(tmp_path) == {"folder.png", "file"}


def test_folders_are_made_and_after_a_failure_removed_again(tmp_path, monkeypatch):
    path = tmp_path / "no" / "such" / "x.png"
    check_outputs([path])
    assert listing(tmp_path) == set()
    with monkeypatch.context() as patched:
        patched.setattr(output.os, "link", lambda *_: os.stat(tmp_path / "gone"))
        with pytest.raises(OutputError):
            save(an_image(), path)
    assert listing(tmp_path) == set()
    save(an_image(), path)
    assert [each.name for each in path.parent.iterdir()] == ["x.png"]


def test_read_only_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # the superuser may write anywhere
    with pytest.raises(OutputError, match="read-only"):
        check_outputs([tmp_path / "x.png"])


@pytest.mark.parametrize("step", ["fsync", "link", "replace", "open"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_at_any_step_leaves_nothing_behind(tmp_path, monkeypatch, step, error):
    path, overwrite = tmp_path / "x.png", step == "replace"
    if overwrite:
        path.write_bytes(b"old")
    before = listing(tmp_path)

    def fail(*_args: object, **_more: object) -> None:
        raise error

    monkeypatch.setattr(output.os, step, fail)
    with pytest.raises(OutputError if isinstance(error, OSError) else KeyboardInterrupt) as caught:
        save(an_image(), path, options=SaveOptions(overwrite=overwrite))
    monkeypatch.undo()
    assert listing(tmp_path) == before
    assert not overwrite or path.read_bytes() == b"old"
    if isinstance(error, OSError):
        assert str(caught.value) == f"{path} cannot be written: No space left on device"


def test_the_file_is_complete_when_it_gets_its_name(tmp_path, monkeypatch):
    seen, link = [], os.link

    def watch(source: str, target: str) -> None:
        seen.append((os.path.dirname(source), os.path.getsize(source), os.path.exists(target)))
        link(source, target)

    monkeypatch.setattr(output.os, "link", watch)
    save(an_image(), tmp_path / "x.png")
    assert seen == [(str(tmp_path), (tmp_path / "x.png").stat().st_size, False)]


@pytest.mark.parametrize("overwrite", [False, True])
def test_image_and_name_are_flushed_to_the_disk_in_that_order(tmp_path, monkeypatch, overwrite):
    path, steps = tmp_path / "x.png", []
    real = {name: getattr(os, name) for name in ("fsync", "link", "replace")}

    def fsync(handle: int) -> None:
        found = os.fstat(handle)
        steps.append("folder" if found.st_ino == tmp_path.stat().st_ino else found.st_size)
        real["fsync"](handle)

    def named(name: str) -> Callable[..., Any]:
        return lambda *paths: steps.append(name) or real[name](*paths)

    monkeypatch.setattr(output.os, "fsync", fsync)
    for name in ("link", "replace"):
        monkeypatch.setattr(output.os, name, named(name))
    save(an_image(), path, options=SaveOptions(overwrite=overwrite))
    assert steps == [path.stat().st_size, "replace" if overwrite else "link", "folder"]


def test_file_systems_without_hard_links(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(output.os, "link", refuse)
    save(an_image(), tmp_path / "x.png")
    assert listing(tmp_path) == {"x.png"}
    with pytest.raises(OutputError, match="already there"):
        save(an_image(), tmp_path / "x.png")


def test_two_writers_of_one_name_one_wins(tmp_path):
    results = []

    def write() -> None:
        try:
            results.append(save(an_image(), tmp_path / "x.png"))
        except OutputError as exc:
            results.append(str(exc))

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count(()) == 1
    assert listing(tmp_path) == {"x.png"}


def test_permissions_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        save(an_image(), tmp_path / "x.png")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "x.png").stat().st_mode) == 0o640


def test_what_a_format_cannot_hold_is_one_line(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        save(Image.fromarray(np.zeros((4, 4), np.float32)), tmp_path / "x.png")
    with pytest.raises(OutputError, match="cannot be written"):
        save(an_image(), tmp_path / "x.png", metadata={"a": float("nan")})
    assert listing(tmp_path) == set()


@pytest.mark.parametrize("options", [{"quality": 0}, {"quality": 101}, {"compression": -1}, {"compression": 10}])
def test_options_outside_their_limits(options):
    with pytest.raises(OutputError, match="must be between"):
        SaveOptions(**options)
