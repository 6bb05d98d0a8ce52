"""What replies say of LoRAs, VAE, IP adapter and safety checker, on the null backend."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import intarsia
from tests.tiny_files import SD1_LORA, write
from tests.unit.endpoint_table import IMAGE, MINIMAL, encoded_image
from tests.unit.replies import checked

REGISTRY = """
schema = 1
default = "m"
[models.m]
family = "sd15"
path = "m"
safety = "strict"
[safety.strict]
path = "strict"
[vaes.soft]
path = "strict"
[loras.ink]
path = "ink.safetensors"
aliases = ["india_ink"]
[loras.pen]
path = "ink.safetensors"
families = ["sdxl"]
[loras.wash]
path = "ink.safetensors"
[ip_adapters.ip-adapter_sd15]
path = "look"
"""
SMALL = {**MINIMAL, "model_id": "m", "width": 96, "height": 64, "base64": "yes", "seed": 1}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[intarsia.Engine]:
    for folder, file in [("m", "model_index.json"), ("strict", "config.json"), ("look", "ip_adapter.safetensors")]:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text("{}")
    write(tmp_path / "ink.safetensors", SD1_LORA)
    (tmp_path / "weights.toml").write_text(REGISTRY)
    with intarsia.Engine("null", weights=tmp_path / "weights.toml") as opened:
        yield opened


def test_parts_are_named_by_their_registry_ids(engine):
    fields = {
        "vae": "SOFT", "lora_model": "india-ink, wash", "lora_strength": "0.5,1", "ip_adapter_id": "ip_adapter-SD15",
        "ip_adapter_image": IMAGE, "ip_adapter_scale": "0.25",
    }  # fmt: skip
    meta = checked(engine.reply({**SMALL, **fields}, "community"))["meta"]
    names = ("vae", "lora", "lora_strength", "ip_adapter_id", "ip_adapter_scale")
    assert tuple(meta[name] for name in names) == ("soft", "ink,wash", "0.5,1", "ip-adapter_sd15", 0.25)
    meta = checked(engine.reply({**SMALL, "lora_model": ["ink"], "lora_strength": 0.7}, "community"))["meta"]
    assert (meta["lora"], meta["lora_strength"]) == ("ink", 0.7)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lora_model": "nope"}, "LoRA not found: nope; the registry has: ink, pastel, pen, shade, stripes, wash"),
        ({"lora_model": "ink,india_ink"}, "lora_model must be different from one another; ink is there twice"),
        ({"lora_model": "pen"}, "LoRA pen fits the families sdxl, not sd15 of m"),
        ({"vae": "nope"}, "VAE not found: nope; the registry has: intarsia-tiny-vae, soft"),
        (
            {"ip_adapter_id": "ip-adapter_sdxl", "ip_adapter_image": IMAGE},
            "IP adapter not found: ip-adapter_sdxl; the registry has: ip-adapter-sd15, tiny-look",
        ),
    ],
)
def test_what_is_not_there_or_does_not_fit_is_named(engine, fields, message):
    assert checked(engine.reply({**SMALL, **fields}, "community")) == {"status": "error", "message": message}


def test_an_ip_adapters_image_is_called_by_its_documented_name(engine):
    fields = {"ip_adapter_id": "ip-adapter_sd15", "ip_adapter_image": "photo.png"}
    message = checked(engine.reply({**SMALL, **fields}, "community"))["message"]
    assert message.startswith("ip_adapter_image: 'photo.png' is not a URL, data URI or base64")


@pytest.mark.parametrize("endpoint", ["enterprise-pony", "pony"])
def test_the_checker_is_on_where_the_document_says_so(engine, endpoint):
    payload = {name: value for name, value in SMALL.items() if name not in ("safety_checker", "width", "height")}
    reply = checked(engine.reply(payload, endpoint))
    assert reply["meta"]["safety_checker"] == "yes"
    assert reply["nsfw_content_detected"] is False


@pytest.mark.parametrize("action", ["blur", "pixelate", "black", "sensitive_content_text"])
def test_a_finding_is_in_the_reply_and_its_image_is_not(engine, action):
    purple = Image.new("RGB", (96, 64), (160, 20, 160))
    buffer = io.BytesIO()
    purple.save(buffer, "PNG")
    mask = np.zeros((64, 96), np.uint8)
    mask[30:34, 40:44] = 255
    written = io.BytesIO()
    Image.fromarray(mask).save(written, "PNG")
    images = {"init_image": buffer.getvalue(), "mask_image": written.getvalue()}
    payload = SMALL | {name: base64.b64encode(data).decode() for name, data in images.items()}
    reply = checked(engine.reply({**payload, "safety_checker": "yes", "safety_checker_type": action}, "community"))
    assert reply["nsfw_content_detected"] is True
    assert reply["meta"]["safety_checker_type"] == action
    assert f"{action} was applied" in reply["tip"]
    made = np.asarray(Image.open(io.BytesIO(base64.b64decode(reply["output"][0]))))
    unchecked = checked(engine.reply(payload, "community"))
    assert unchecked["nsfw_content_detected"] is False
    assert not np.array_equal(made, np.asarray(Image.open(io.BytesIO(base64.b64decode(unchecked["output"][0])))))
    if action == "black":
        assert made.max() == 0


def test_an_image_that_is_not_flagged_is_as_without_a_checker(engine):
    plain = engine.reply({**SMALL, "init_image": encoded_image((96, 64))}, "community")
    watched = engine.reply({**SMALL, "init_image": encoded_image((96, 64)), "safety_checker": 1}, "community")
    pixels = [np.asarray(Image.open(io.BytesIO(base64.b64decode(each["output"][0])))) for each in (plain, watched)]
    np.testing.assert_array_equal(*pixels)


@pytest.mark.parametrize("endpoint", ["community", "enterprise-pony", "pony", "realtime"])
@pytest.mark.parametrize("flagged", [(), (0,), (3,), (1, 2), (0, 1, 2, 3)])
def test_one_unsafe_image_of_four_is_enough(engine, monkeypatch, endpoint, flagged):
    run = engine.run

    def screened(*given: Any, **more: Any) -> intarsia.Result:
        return dataclasses.replace(run(*given, **more), nsfw=tuple(place in flagged for place in range(4)))

    monkeypatch.setattr(engine, "run", screened)
    smallest = {"width": 512, "height": 512} if endpoint == "pony" else {}
    payload = {**SMALL, **smallest, "samples": 4, "steps": 2, "safety_checker": "yes"}
    reply = checked(engine.reply(payload, endpoint), endpoint)
    assert (len(reply["output"]), reply["nsfw_content_detected"]) == (4, bool(flagged))
