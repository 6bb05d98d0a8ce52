"""An image made again from its own file: every field of a request is in it, and what it leaves out is found or said."""

from __future__ import annotations

import base64
import io
import json
import logging
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

import intarsia
from intarsia import InpaintRequest, RequestError, schedulers
from intarsia.engine.origin import source_of
from intarsia.engine.request_from import read_past_request
from intarsia.engine.resolve import outline
from intarsia.registry.registry import Registry
from intarsia.schedulers import NAMES

IMAGE_FIELDS = {"init_image", "mask_image"}
ALL_FIELDS = set(InpaintRequest.model_fields) - IMAGE_FIELDS
SCHEMAS = InpaintRequest.model_json_schema()["properties"]
TEXTS = ("a red circle", "a, b: c", 'say "x"', "ünï 円\n2nd line", "tiny-sun (x:1.2) <lora:shade:0.5>", "50% {prompt}")

# Fields whose values no schema lists; the others are drawn from theirs, so that a new one is drawn too.
CHOICES: dict[str, tuple[Any, ...]] = {
    "prompt": TEXTS,
    "negative_prompt": ("blurry", *TEXTS[:4]),
    "model": ("intarsia-tiny", "intarsia-tiny-lcm"),
    "scheduler": (*NAMES, "DPM++ 2M SDE Karras", "euler_a", "ddim"),
    "algorithm_type": ("dpmsolver++", "sde-dpmsolver++", "dpmsolver"),
    "spacing": ("karras", "exponential", "trailing", "linspace"),
    "solver_type": ("midpoint", "heun", "bh1"),
    "final_sigmas_type": ("zero", "sigma_min"),
    "loras": ([{"id": "stripes", "strength": -0.3}, {"id": "pastel"}], ["stripes:1.25"]),
    "embeddings": (["tiny-sun"],),
    "vae": ("soft",),
    "ip_adapter": ({"id": "tiny-look", "scale": 0.3}, {"id": "tiny-look"}),
    "extend": ({"left": 16}, "right=8,overlap=4"),
    "width": (64, 72, 96),
    "height": (64, 80, 104),
    "steps": (2, 3, 5),
    "mask_dilate": (1, 3, -2),
    "mask_padding": (0, 8, 16, "auto", "whole"),
    "mask_min_area": (3, 9, "0.5%"),
    "samples": (2, 3),
}
SEEDS = range(45)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images as files, one of them with a hole, and a registry that has a VAE beside what is packaged."""
    folder = tmp_path_factory.mktemp("scene")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (64, 80, 4), dtype=np.uint8)
    pixels[:, :, 3] = 255
    mask = np.zeros((64, 80, 4), np.uint8)
    mask[:, :, 3] = 255
    mask[20:44, 24:56] = 255
    mask[30:50, 4:20] = 0  # the other reading of the file: a hole in it
    for name, image in (("photo", pixels), ("mask", mask), ("look", pixels[:32, :32, :3])):
        Image.fromarray(image).save(folder / f"{name}.png")

    (folder / "soft").mkdir()
    (folder / "soft" / "config.json").write_text("{}")
    (folder / "bare").mkdir()
    (folder / "bare" / "model_index.json").write_text("{}")
    bare = '[models.bare]\nfamily = "sd15-inpaint"\npath = "bare"\n'
    (folder / "weights.toml").write_text(f'schema = 1\n[vaes.soft]\npath = "soft"\n{bare}')
    return folder


@pytest.fixture(scope="module")
def engine(folder: Path) -> Any:
    with intarsia.Engine("null", weights=folder / "weights.toml") as opened:
        yield opened


@pytest.fixture
def ask(folder: Path) -> Callable[..., InpaintRequest]:
    def make(**fields: Any) -> InpaintRequest:
        images = {"init_image": str(folder / "photo.png"), "mask_image": str(folder / "mask.png")}
        return InpaintRequest(**{**images, "steps": 3, "seed": 5, "width": 64, "height": 64, **fields})

    return make


def drawn_value(rng: random.Random, name: str) -> Any:
    """A value of a field, from the table or within the limits of its schema."""
    if name in CHOICES:
        return rng.choice(CHOICES[name])
    schema = SCHEMAS[name]
    kinds = [each for each in schema.get("anyOf", [schema]) if each.get("type") != "null"]
    kind = rng.choice(kinds)
    if "enum" in kind:
        return rng.choice(kind["enum"])
    if kind.get("type") == "boolean":
        return rng.random() < 0.5
    if kind.get("type") == "integer":
        return rng.randint(kind["minimum"], kind["maximum"])
    if kind.get("type") == "number":
        return rng.uniform(kind["minimum"], kind["maximum"])
    return None


def random_fields(number: int, folder: Path, registry: Registry) -> dict[str, Any]:
    """Fields of a request that can be carried out: each is tried, and left out where it contradicts the others."""
    rng = random.Random(number)
    images = {"init_image": str(folder / "photo.png"), "mask_image": str(folder / "mask.png")}
    fields: dict[str, Any] = {**images, "width": 64, "height": 64, "steps": 2}
    if number % 6 == 0:
        fields["scheduler"] = "ddim"  # one of few that take eta
    for name in rng.sample(sorted(ALL_FIELDS), len(ALL_FIELDS)):
        value = drawn_value(rng, name)
        if value is None or rng.random() < 0.4:
            continue
        if name == "ip_adapter":
            value = {**value, "image": str(folder / "look.png")}
        try:
            outline(InpaintRequest.parse(fields | {name: value}), registry)
        except RequestError:
            continue
        fields[name] = value
    return fields


def test_thirty_random_requests_are_made_again_from_their_files_bit_by_bit(engine, folder, tmp_path):
    registry = Registry(folder / "weights.toml")
    varied: set[str] = set()
    for number in SEEDS:
        fields = random_fields(number, folder, registry)
        first = engine.run(InpaintRequest.parse(fields))
        sample = len(first.images) - 1
        path = tmp_path / f"{number}.png"
        first.save(path, sample)

        again = engine.run(intarsia.request_from(path))
        assert again.images[0].tobytes() == first.images[sample].tobytes(), fields
        assert again.seeds == (first.seeds[sample],)
        written, repeated = (each.file_texts(which)["metadata"] for each, which in ((first, sample), (again, 0)))
        assert written["plan_sha256"] == repeated["plan_sha256"], fields
        assert written["request"] == repeated["request"]
        defaults = InpaintRequest.model_fields
        varied |= {name for name, value in fields.items() if value != defaults[name].default}
    assert ALL_FIELDS - varied == {"table"}, "each other field was another than its default at least once"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_every_field_of_a_request_is_in_the_file(engine, ask, tmp_path, suffix):
    engine.run(ask(prompt="x")).save(tmp_path / f"a{suffix}")
    found = read_past_request(tmp_path / f"a{suffix}")
    assert not found.warnings
    metadata = engine.run(ask(prompt="x")).file_texts()["metadata"]
    assert set(metadata["request"]) == ALL_FIELDS
    assert json.loads(json.dumps(metadata)) == metadata
    repeated = engine.run(intarsia.request_from(tmp_path / f"a{suffix}")).file_texts()["metadata"]
    assert repeated["plan_sha256"] == metadata["plan_sha256"]


def test_a_table_of_ones_own_is_in_the_file(engine, ask, tmp_path):
    table = schedulers.table("euler", 4, strength=0.8, karras=True)
    first = engine.run(ask(table=table).model_copy(update={"steps": None}))
    first.save(tmp_path / "a.png")
    again = engine.run(intarsia.request_from(tmp_path / "a.png"))
    assert again.images[0].tobytes() == first.images[0].tobytes()
    assert again.plan == first.plan
    assert intarsia.request_from(tmp_path / "a.png", scheduler="ddim").table is None


def test_an_image_that_was_extended_without_a_mask_needs_none(engine, ask, tmp_path):
    first = engine.run(ask(extend="left=16", mask_image=None))
    first.save(tmp_path / "a.png")
    assert json.loads(json.dumps(first.meta))["extend"]["left"] == 16
    again = engine.run(intarsia.request_from(tmp_path / "a.png"))
    assert again.images[0].tobytes() == first.images[0].tobytes()


def test_what_the_plan_says_of_the_mask_is_in_the_meta(engine, ask):
    fields = {"mask_dilate": 2, "mask_blur": 1.5, "mask_padding": 8, "invert_mask": True, "masked_content": "fill"}
    meta = engine.run(ask(**fields, color_match=True, mask_source="luma")).meta
    assert fields.items() <= meta.items()
    assert (meta["color_match"], meta["mask_source"]) == (True, "luma")


@pytest.mark.parametrize("has_mask", [True, False])
def test_an_extended_image_is_made_again_with_or_without_a_mask(engine, ask, tmp_path, has_mask):
    fields = {"extend": {"left": 8, "top": 16}, "soft_mask": has_mask, **({} if has_mask else {"mask_image": None})}
    first = engine.run(ask(**fields))
    first.save(tmp_path / "a.png")
    assert first.meta["extend"] == {"left": 8, "top": 16, "right": 0, "bottom": 0, "overlap": 16}
    again = engine.run(intarsia.request_from(tmp_path / "a.png"))
    assert again.images[0].tobytes() == first.images[0].tobytes()
    assert again.plan.sha256 == first.plan.sha256


def test_karras_is_only_said_where_it_was_applied(engine, ask):
    texts = {name: engine.run(ask(scheduler=name, karras_sigmas=True)).file_texts() for name in ("ddim", "euler")}
    assert [texts[name]["metadata"]["karras_sigmas"] for name in texts] == [False, True]
    assert ["Schedule type: Karras" in texts[name]["parameters"] for name in texts] == [False, True]


@pytest.mark.parametrize("model", [None, "bare"])
def test_defaults_of_the_model_are_written_so_that_others_change_nothing(engine, ask, model):
    written = engine.run(ask(steps=None, model=model)).file_texts()["metadata"]["request"]
    names = ("model", "steps", "scheduler", "clip_skip", "prompt_syntax", "seed")
    assert [name for name in names if written[name] is None] == []


def test_changes_vary_the_image(engine, ask, tmp_path):
    engine.run(ask(scheduler="DPM++ 2M SDE Karras", algorithm_type="sde-dpmsolver++")).save(tmp_path / "a.png")
    varied = intarsia.request_from(tmp_path / "a.png", seed=-1, scheduler="ddim", prompt="other")
    assert (varied.seed, varied.scheduler, varied.prompt, varied.steps) == (None, "ddim", "other", 3)
    assert varied.algorithm_type is None, "it was said of the other scheduler"
    with pytest.raises(RequestError, match="steps must be"):
        intarsia.request_from(tmp_path / "a.png", steps=0)


def test_images_are_found_beside_the_file_and_compared(engine, folder, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    for name in ("photo.png", "mask.png"):
        shutil.copy(folder / name, home / name)
    request = InpaintRequest(init_image=str(home / "photo.png"), mask_image=str(home / "mask.png"), seed=1, steps=2)
    engine.run(request).save(home / "a.png")

    moved = tmp_path / "moved"
    shutil.move(home, moved)
    assert intarsia.request_from(moved / "a.png").init_image == str(moved / "photo.png")
    Image.new("RGB", (80, 64)).save(moved / "photo.png")
    with pytest.raises(
        RequestError, match=r"moved/photo\.png has other pixels than the init_image of .*a\.png; give it"
    ):
        intarsia.request_from(moved / "a.png")
    assert intarsia.request_from(moved / "a.png", init_image="x.png").init_image == "x.png"
    (moved / "mask.png").unlink()
    with pytest.raises(RequestError, match=r"home/mask\.png, the mask_image of .*a\.png, is not there; give it"):
        intarsia.request_from(moved / "a.png", init_image="x.png")


def test_an_image_that_came_from_no_file_has_to_be_given(engine, ask, folder, tmp_path):
    encoded = base64.b64encode((folder / "photo.png").read_bytes()).decode()
    for image in (encoded, f"data:image/png;base64,{encoded}", np.zeros((64, 80, 3), np.uint8)):
        result = engine.run(ask(init_image=image))
        assert set(result.file_texts()["metadata"]["inputs"]["init_image"]) == {"sha256"}
    result.save(tmp_path / "a.png")
    with pytest.raises(RequestError, match=r"a\.png names no file for init_image; give it"):
        intarsia.request_from(tmp_path / "a.png")


def test_addresses_lose_what_may_be_secret_and_paths_the_home(monkeypatch):
    source = source_of("https://me:secret@example.org/a.png?sig=secret#x", None)
    assert source == {"url": "https://example.org/a.png"}
    monkeypatch.setenv("HOME", "/users/somebody")
    assert source_of("x", "/users/somebody/a/b.png") == {"path": "~/a/b.png"}
    assert source_of("x", "/users/somebodyelse/b.png") == {"path": "/users/somebodyelse/b.png"}


def test_paths_of_parts_lose_the_home_and_are_found_again(engine, ask, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    result = engine.run(ask(vae=str(folder / "soft")))
    request = result.file_texts()["metadata"]["request"]
    assert (request["vae"], request["model"]) == ("~/soft", "intarsia-tiny")
    result.save(tmp_path / "a.png")
    assert str(folder) not in json.dumps(read_past_request(tmp_path / "a.png").inputs)
    assert engine.run(intarsia.request_from(tmp_path / "a.png")).meta == result.meta


def test_replies_name_no_file_of_the_input(engine, ask):
    texts = engine.run(ask()).file_texts(with_paths=False, strip=True)
    assert [set(source) for source in texts["metadata"]["inputs"].values()] == [{"sha256"}, {"sha256"}]


def with_parameters(path: Path, text: str) -> Path:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("parameters", text)
    Image.new("RGB", (64, 64)).save(path, pnginfo=chunks)
    return path


FOREIGN = (
    "a cat, sitting\nNegative prompt: blurry\nSteps: 20, Sampler: DPM++ 2M SDE, Schedule type: Karras, CFG scale: 6.5, "
    "Seed: 123, Size: 512x768, Model hash: 0123456789, Model: intarsia-tiny, VAE: soft, Denoising strength: 0.75, "
    "Clip skip: 2, Mask blur: 6, Inpaint area: Only masked, Masked area padding: 32, Masked content: latent noise, "
    'Mask mode: Inpaint not masked, Lora hashes: "x: 0123, y: 4567", Hires upscale: 2, ENSD: 31337, Version: v1.10.1'
)


def test_the_web_uis_text_is_read_as_far_as_it_goes(tmp_path, caplog):
    path = with_parameters(tmp_path / "a.png", FOREIGN)
    with caplog.at_level(logging.WARNING, "intarsia"):
        request = intarsia.request_from(path, init_image="i.png", mask_image="m.png")
    expected = {
        "prompt": "a cat, sitting", "negative_prompt": "blurry", "steps": 20, "scheduler": "DPM++ 2M SDE Karras",
        "guidance_scale": 6.5, "seed": 123, "width": 512, "height": 768, "model": "intarsia-tiny", "vae": "soft",
        "strength": 0.75, "clip_skip": 2, "mask_blur": 6.0, "mask_padding": 32, "masked_content": "noise",
        "invert_mask": True,
    }  # fmt: skip
    assert {name: getattr(request, name) for name in expected} == expected
    [warning] = caplog.messages
    assert re.search(r"a\.png: not read: Hires upscale '2', ENSD '31337'$", warning)


@pytest.mark.parametrize(
    ("pairs", "fields", "left_out"),
    [
        ("Sampler: Euler a", {"scheduler": "Euler a", "karras_sigmas": False}, set()),
        ("Sampler: Euler, Schedule type: Automatic", {"scheduler": "Euler"}, set()),
        ("Sampler: DPM2, Schedule type: Beta", {"scheduler": "DPM2", "karras_sigmas": False}, {"Schedule type"}),
        ("Sampler: DPM fast, Schedule type: Karras", {}, {"Sampler", "Schedule type"}),
        ("CFG scale: 90, Sampler: DDIM", {"scheduler": "DDIM"}, {"guidance_scale"}),
        ("Size: big, Clip skip: nine, Seed: 5", {"seed": 5}, {"Size", "Clip skip"}),
        ("Masked area padding: 32, Seed: 5", {"seed": 5, "mask_padding": None}, set()),
    ],
)  # fmt: skip
def test_what_of_other_texts_is_not_read_is_named(tmp_path, pairs, fields, left_out):
    found = read_past_request(with_parameters(tmp_path / "a.png", f"p\nSteps: 5, {pairs}, Model: m"))
    read = {name: value for name, value in found.fields.items() if name in {*fields, "scheduler", "karras_sigmas"}}
    assert read == fields
    named = set(re.findall(r"(?:not read: |, )([A-Za-z_ ]+) '?", " ".join(found.warnings)))
    assert named == left_out


def test_a_file_of_an_earlier_version_is_read_as_far_as_it_goes(tmp_path):
    meta = {
        "prompt": "x", "seed": 7, "steps": 3, "vae": "soft:00ff", "ip_adapter": "none", "token_merging": 0.25,
        "loras": [{"id": "shade", "sha256": "00", "strength": 0.5}], "evaluations": 3, "samples": 4,
    }  # fmt: skip
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("intarsia", json.dumps(meta))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=chunks)
    found = read_past_request(tmp_path / "a.png")
    assert "earlier version" in found.warnings[0]
    assert found.fields == {
        "prompt": "x", "seed": 7, "steps": 3, "vae": "soft", "token_merging": 0.25, "samples": 1, "embeddings": [],
        "loras": [{"id": "shade", "strength": 0.5}],
    }  # fmt: skip


def test_files_that_say_nothing_are_refused_in_a_sentence(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    with_parameters(tmp_path / "prompt.png", "only words")
    (tmp_path / "text.png").write_text("hello")
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("intarsia", "[1, 2]")
    Image.new("RGB", (8, 8)).save(tmp_path / "list.png", pnginfo=chunks)
    (tmp_path / "cut.png").write_bytes((tmp_path / "plain.png").read_bytes()[:20])
    for name, sentence in {
        "plain.png": "says nothing of how it was made", "prompt.png": "says nothing of how it was made",
        "list.png": "says nothing of how it was made", "text.png": "is no image that can be read",
        "cut.png": "is no image that can be read", "gone.png": "file not found",
    }.items():  # fmt: skip
        with pytest.raises(RequestError, match=sentence) as caught:
            intarsia.request_from(tmp_path / name)
        assert "\n" not in str(caught.value)


HOSTILE: tuple[Any, ...] = (
    {"request": {"steps": 0, "nope": 1, "loras": 5, "seed": [], "prompt": {"a": 1}}, "inputs": {"init_image": 3}},
    {"request": {"prompt": "x"}, "inputs": [1], "loras": 3, "vae": 5},
    {"request": [], "loras": [1, None], "embeddings": 5, "ip_adapter": "x"},
    {"request": {"ip_adapter": {"id": 5}, "mask_blur": "x" * 10_000}},
)


@pytest.mark.parametrize("metadata", HOSTILE)
def test_metadata_of_any_form_are_an_error_or_warnings(tmp_path, metadata):
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("intarsia", json.dumps(metadata))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=chunks)
    found = read_past_request(tmp_path / "a.png")
    assert all("\n" not in warning for warning in found.warnings)
    with pytest.raises(RequestError, match="names no file for init_image"):
        found.varied({})


def test_other_files_of_a_model_or_a_part_are_noticed(engine, ask, tmp_path):
    result = engine.run(ask(loras=["stripes"]))
    result.save(tmp_path / "a.png")
    found = read_past_request(tmp_path / "a.png")
    assert found.changed_files(result.meta) == ()
    lora = {**result.meta["loras"][0], "sha256": "0"}
    assert found.changed_files(result.meta | {"loras": [lora], "model_hash": "1"}) == ("intarsia-tiny", "stripes")
    assert found.changed_files(result.meta | {"loras": [], "model": "other"}) == ()


def test_a_jpeg_keeps_what_its_exif_cannot_hold(engine, ask, tmp_path):
    """The input's own EXIF fills the segment: how the image was made is in the file's comment then."""
    block = Image.Exif()
    block.get_ifd(0x8769)[0x927C] = b"m" * 63_000
    data = io.BytesIO()
    Image.new("RGB", (80, 64), (9, 9, 9)).save(data, "JPEG", exif=block)
    (tmp_path / "photo.jpg").write_bytes(data.getvalue())
    result = engine.run(ask(init_image=str(tmp_path / "photo.jpg"), prompt="x"))
    assert not [note for note in result.save(tmp_path / "a.jpg") if "left out" in note]
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.getexif().get_ifd(0x8769)[0x927C] == b"m" * 63_000
    assert intarsia.request_from(tmp_path / "a.jpg").prompt == "x"
