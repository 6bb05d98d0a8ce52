"""Paths of files in place of ids: for the command line and the library, never for what comes over a network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import intarsia
from intarsia import InpaintRequest, Lora, RequestError, WeightsError
from intarsia.commands.request_options import _lora
from intarsia.engine.resolve import outline, resolve
from intarsia.images.access import Access
from intarsia.registry.registry import Registry
from tests.tiny_files import SD1_LORA, SD1_UNET, SDXL_LORA, VAE, channels, checkpoint, write
from tests.unit.endpoint_table import MINIMAL


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of downloads, of which the registry knows nothing but one LoRA."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("INTARSIA_WEIGHTS", raising=False)
    write(tmp_path / "Dream_8.safetensors", checkpoint(channels(SD1_UNET, 9)))
    write(tmp_path / "ink.safetensors", SD1_LORA)
    write(tmp_path / "xl.safetensors", SDXL_LORA)
    write(tmp_path / "vae.safetensors", VAE)
    write(tmp_path / "novae.safetensors", checkpoint(vae={}))
    write(tmp_path / "flux.safetensors", {"double_blocks.0.img_attn.qkv.weight": (8, 8)})
    (tmp_path / "page.safetensors").write_text("<html>")
    (tmp_path / "old.ckpt").write_bytes(b"\x80\x02")
    write(tmp_path / "known.safetensors", SD1_LORA, fill=3)
    (tmp_path / "weights.toml").write_text('schema = 1\n[loras.registered]\npath = "known.safetensors"\n')
    return tmp_path


@pytest.fixture
def ask() -> Callable[..., InpaintRequest]:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    mask = np.zeros((64, 64), np.uint8)
    mask[20:40, 20:40] = 255

    def make(**fields: Any) -> InpaintRequest:
        return InpaintRequest(**{"init_image": image, "mask_image": mask, "seed": 1, "steps": 3, **fields})

    return make


def test_the_library_takes_paths(files, ask):
    request = ask(
        model=files / "Dream_8.safetensors",
        vae=str(files / "vae.safetensors"),
        loras=[f"{files}/ink.safetensors:0.8", Lora(id=str(files / "known.safetensors"), strength=-0.5)],
    )
    with intarsia.Engine("null", weights=files / "weights.toml") as engine:
        meta = engine.run(request).meta
    assert meta["model"] == "dream-8"
    assert meta["vae"].startswith("vae:")
    # a path that the registry has is its entry
    assert [(lora["id"], lora["strength"]) for lora in meta["loras"]] == [("ink", 0.8), ("registered", -0.5)]
    assert str(files) not in json.dumps(meta)


def test_the_path_of_a_model_that_is_registered_is_its_entry(files, ask):
    with (files / "weights.toml").open("a") as registry:
        registry.write('[models.mine]\nfamily = "sd15-inpaint"\npath = "Dream_8.safetensors"\nsize = 256\n')
    resolved = resolve(ask(model="~/Dream_8.safetensors"), Registry(files / "weights.toml"))
    assert (resolved.entry.id, resolved.entry.size) == ("mine", 256)
    assert not any("stood in" in warning for warning in resolved.warnings)


def test_a_path_has_the_hash_of_its_content(files, ask):
    request = ask(model="~/Dream_8.safetensors")
    plan = intarsia.plan(request, files / "weights.toml")
    assert (plan.model.family, plan.model.in_channels) == ("sd15-inpaint", 9)
    write(files / "Dream_8.safetensors", checkpoint(channels(SD1_UNET, 9)), fill=1)
    assert intarsia.plan(request, files / "weights.toml").model.sha256 != plan.model.sha256


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"model": "~/gone.safetensors"}, "gone.safetensors: no such file or folder, and the registry has no model of"),
        ({"model": "~/ink.safetensors"}, "is a LoRA, not a model; give it as --lora"),
        (
            {"loras": ["~/Dream_8.safetensors"]},
            "is a Stable Diffusion 1 inpainting checkpoint, not a LoRA; give it as ",
        ),
        ({"vae": "~/ink.safetensors"}, "is a LoRA, not a VAE; give it as --lora"),
        ({"model": "~/flux.safetensors"}, "is a model of the family Flux, not a model"),
        ({"model": "~/page.safetensors"}, "a web page"),
        ({"model": "~/old.ckpt"}, "can run code when it is opened"),
        ({"model": "~/novae.safetensors"}, "has no VAE; add it with another's: intarsia models add novae.safetensors"),
        ({"loras": ["~/xl.safetensors"]}, "LoRA xl fits the families sdxl, sdxl-inpaint, not sd15-inpaint"),
        ({"model": "intarsia_tinny"}, r"did you mean intarsia-tiny\? A file is added with: intarsia models add PATH"),
        (
            {"loras": ["nope"]},
            "the registry has: pastel, registered, shade, stripes; a file is added with: intarsia models add PATH",
        ),
        ({"model": "\0/x.safetensors"}, "must be a path"),
        ({"model": "~nobody-of-that-name/x"}, "ome"),
    ],
)
def test_what_a_path_is_not_good_for_is_said(files, ask, fields, sentence):
    request = ask(**{"model": "~/Dream_8.safetensors", **fields})
    with pytest.raises(WeightsError, match=sentence):
        intarsia.plan(request, files / "weights.toml")


def test_a_vae_of_the_request_is_enough_for_a_file_without_one(files, ask):
    request = ask(model="~/novae.safetensors", vae="~/vae.safetensors")
    assert intarsia.plan(request, files / "weights.toml").model.vae.startswith("vae:")


FROM_OUTSIDE = [
    {"model": "{files}/Dream_8.safetensors"},
    {"model": "intarsia-tiny", "vae": "{files}/vae.safetensors"},
    {"model": "intarsia-tiny", "loras": [{"id": "{files}/ink.safetensors"}]},
    {"model": "intarsia-tiny", "loras": [{"id": "{files}/known.safetensors"}]},
    {"model": "intarsia-tiny", "ip_adapter": {"id": "{files}/look"}},
]


def filled(value: Any, files: Path) -> Any:
    return json.loads(json.dumps(value).replace("{files}", str(files)))


@pytest.mark.parametrize("fields", FROM_OUTSIDE)
def test_what_came_over_a_network_names_no_paths(files, ask, fields):
    """The server resolves and runs its requests in this way. What is there and what is not look alike."""
    registry = Registry(files / "weights.toml")
    messages = []
    for place in (files, files / "nowhere"):
        with pytest.raises(WeightsError, match="not found: ") as caught:
            resolve(ask(**filled(fields, place)), registry, Access(allow_paths=False))
        messages.append(str(caught.value).replace(str(place), ""))
    assert messages[0] == messages[1]
    with pytest.raises(WeightsError, match="not found: "):
        outline(ask(**filled(fields, files)), registry)


@pytest.mark.parametrize(
    "fields",
    [
        {"model_id": "{files}/Dream_8.safetensors"},
        {"model_id": "intarsia-tiny", "lora_model": "{files}/ink.safetensors"},
        {"model_id": "intarsia-tiny", "vae": "{files}/vae.safetensors"},
    ],
)
def test_documented_requests_name_no_paths(files, fields):
    with intarsia.Engine("null", weights=files / "weights.toml") as engine:
        reply = engine.reply({**MINIMAL, **filled(fields, files), "base64": "yes"}, "community")
    assert reply["status"] == "error"
    assert " not found: " in reply["message"]
    assert str(files) not in reply["message"]


@pytest.mark.parametrize(
    ("text", "identifier", "strength"),
    [
        ("ink", "ink", None),
        ("ink:0.8", "ink", 0.8),
        ("/a/ink.safetensors", "/a/ink.safetensors", None),
        ("/a:b/ink.safetensors:-1", "/a:b/ink.safetensors", -1.0),
    ],
)
def test_a_strength_stands_behind_the_last_colon(text, identifier, strength):
    expected = {"id": identifier} if strength is None else {"id": identifier, "strength": strength}
    assert _lora(text) == expected
    assert Lora.model_validate(text) == Lora(**expected)


def test_a_colon_in_the_name_of_a_file_is_no_strength(files, monkeypatch):
    write(files / "a:b.safetensors", SD1_LORA)
    monkeypatch.chdir(files)
    assert _lora("a:b.safetensors") == {"id": "a:b.safetensors"}
    with pytest.raises(RequestError, match="ID or ID:STRENGTH"):
        _lora("ink:strong")
