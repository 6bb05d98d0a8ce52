"""VAEs, LoRAs and IP adapters of the registry: found, held to the model's family, planned; on the null backend."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import intarsia
from intarsia import InpaintRequest, IpAdapter, Lora, RequestError, WeightsError
from intarsia.engine.resolve import resolve
from intarsia.registry.registry import Registry
from intarsia.token_merging import TokenMerging
from tests.tiny_files import SD1_LORA, checkpoint, write

REGISTRY = """
schema = 1
default = "nothing"
[models.nothing]
family = "sd15-inpaint"
path = "nothing"
[vaes.soft]
path = "soft"
families = ["sd15", "sd15-inpaint"]
[vaes.xl]
path = "soft"
families = ["sdxl"]
[vaes.single]
path = "ink.safetensors"
[loras.ink]
path = "ink.safetensors"
aliases = ["Ink_Wash"]
[loras.chalk]
path = "chalk.safetensors"
[loras.xl-only]
path = "ink.safetensors"
families = ["sdxl", "sdxl-inpaint"]
[loras.gone]
path = "gone.safetensors"
[loras.pickled]
path = "ink.ckpt"
[loras.folder]
path = "soft"
[ip_adapters.look]
path = "look"
[ip_adapters.empty]
path = "soft"
"""


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("INTARSIA_WEIGHTS", raising=False)
    for folder, file in (("nothing", "model_index.json"), ("soft", "config.json"), ("look", "ip_adapter.safetensors")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text("{}")
    for fill, name in enumerate(("ink.safetensors", "chalk.safetensors")):
        write(tmp_path / name, SD1_LORA, fill=fill)
    (tmp_path / "ink.ckpt").write_text("ink.ckpt")
    path = tmp_path / "weights.toml"
    path.write_text(REGISTRY)
    return path


@pytest.fixture
def ask() -> Callable[..., intarsia.InpaintRequest]:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    mask = np.zeros((64, 64), np.uint8)
    mask[20:40, 20:40] = 255

    def make(**fields: Any) -> InpaintRequest:
        return InpaintRequest(**{"init_image": image, "mask_image": mask, "seed": 1, "steps": 3, **fields})

    return make


def hash_of(path: Path) -> str:
    """Of an entry with one file: names and hashes of its files, hashed."""
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    return hashlib.sha256(f"{path.name} {content}".encode()).hexdigest()


def test_the_plan_names_parts_with_their_hashes(weights, ask):
    shown = np.full((9, 7, 3), 5, np.uint8)
    request = ask(
        vae="soft",
        loras=(Lora(id="INK_wash", strength=-0.5), Lora(id="chalk")),
        ip_adapter=IpAdapter(id="look", scale=0.25, image=shown),
    )
    plan = intarsia.plan(request, weights)
    assert [(each.id, each.strength) for each in plan.model.adapters] == [("ink", -0.5), ("chalk", 1.0)]
    hashes = [hash_of(weights.parent / name) for name in ("ink.safetensors", "chalk.safetensors")]
    assert [each.sha256 for each in plan.model.adapters] == hashes
    identifier, _, digest = plan.model.vae.partition(":")
    assert (identifier, len(digest)) == ("soft", 64)
    assert plan.model.ip_adapter.startswith("look:")
    assert plan.prompt.image_scale == 0.25
    assert len(plan.prompt.image_sha256) == 64
    assert json.loads(plan.to_json())["model"]["adapters"][0]["strength"] == -0.5


def test_without_parts_the_plan_says_so(weights, ask):
    plan = intarsia.plan(ask(), weights)
    assert (plan.model.vae, plan.model.adapters, plan.model.ip_adapter) == ("model", (), "none")
    assert (plan.prompt.image_sha256, plan.prompt.image_scale) == ("", 0.0)


def test_a_changed_file_changes_the_plan(weights, ask):
    before = intarsia.plan(ask(loras=(Lora(id="ink"),)), weights)
    write(weights.parent / "ink.safetensors", SD1_LORA, fill=9)
    assert intarsia.plan(ask(loras=(Lora(id="ink"),)), weights).sha256 != before.sha256


WRONG = [
    ({"vae": "nope"}, WeightsError, r"VAE not found: nope; the registry has: intarsia-tiny-vae, single, soft, xl"),
    ({"loras": [{"id": "nope"}]}, WeightsError, r"LoRA not found: nope; the registry has: chalk, .*ink"),
    ({"ip_adapter": {"id": "nope"}}, WeightsError, r"IP adapter not found: nope; the registry has: empty, look"),
    ({"vae": "xl"}, WeightsError, r"VAE xl fits the families sdxl, not sd15-inpaint of nothing"),
    ({"loras": [{"id": "xl-only"}]}, WeightsError, r"LoRA xl-only fits the families sdxl, sdxl-inpaint, not sd15-inp"),
    ({"loras": [{"id": "ink"}, {"id": "ink"}]}, RequestError, r"loras must be different .*ink is there twice"),
    ({"loras": [{"id": "ink"}, {"id": "ink-WASH"}]}, RequestError, r"ink is there twice"),
    ({"loras": [{"id": "gone"}]}, WeightsError, r"gone: its file .*gone\.safetensors does not exist"),
    ({"loras": [{"id": "pickled"}]}, WeightsError, r"pickled: ink\.ckpt is a pickled checkpoint.*only safetensors"),
    ({"loras": [{"id": "folder"}]}, WeightsError, r"folder: a LoRA is one \.safetensors file"),
    ({"ip_adapter": {"id": "empty", "image": np.zeros((4, 4, 3), np.uint8)}}, WeightsError, r"no ip_adapter\.safetens"),
    ({"ip_adapter": {"id": "look"}}, RequestError, r"ip_adapter\.image is required"),
    ({"ip_adapter": {"id": "look", "image": 7}}, RequestError, r"ip_adapter\.image: must be a path"),
]


@pytest.mark.parametrize(("fields", "kind", "sentence"), WRONG)
def test_what_cannot_be_honored_is_refused_by_name(weights, ask, fields, kind, sentence):
    with pytest.raises(kind, match=sentence) as caught:
        intarsia.plan(ask(**fields), weights)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "field", "allowed"),
    [
        ({"ip_adapter": {"id": "look", "scale": 1.5}}, "ip_adapter.scale", "between 0 and 1"),
        ({"ip_adapter": {"id": "look", "scale": "1"}}, "ip_adapter.scale", "a finite number between 0 and 1"),
        ({"ip_adapter": {"id": "look", "size": 1}}, "ip_adapter.size", "is no key of ip_adapter"),
        ({"ip_adapter": {"scale": 1}}, "ip_adapter.id", "ip_adapter needs id"),
        ({"loras": [{"id": "ink", "strength": "0.5"}]}, "loras.0.strength", "a finite number between -2 and 2"),
        ({"loras": [{"id": "ink", "strength": -2.1}]}, "loras.0.strength", "between -2 and 2"),
        ({"loras": [{"id": ""}]}, "loras.0.id", "at least 1 character"),
    ],
)
def test_malformed_parts_name_the_field(fields, field, allowed):
    with pytest.raises(RequestError, match=allowed) as caught:
        InpaintRequest(**fields)
    assert caught.value.field == field


def test_pins_of_a_single_file(weights, ask):
    content = (weights.parent / "ink.safetensors").read_bytes()
    pin = f'"ink.safetensors" = {{ bytes = {len(content)}, sha256 = "{hashlib.sha256(content).hexdigest()}" }}'
    weights.write_text(REGISTRY.replace('aliases = ["Ink_Wash"]', f"[loras.ink.files]\n{pin}"))
    request = ask(loras=(Lora(id="ink"),))
    with intarsia.Engine("null", weights=weights) as engine:
        engine.run(request)
    damages = (lambda file: file.write_bytes(content[:-1] + b"9"), lambda file: file.write_bytes(b"i"))
    for damage, sentence in zip(
        damages, ("does not have the registry's sha256", f"has 1 bytes, not the {len(content)}"), strict=True
    ):
        damage(weights.parent / "ink.safetensors")
        with intarsia.Engine("null", weights=weights) as engine, pytest.raises(WeightsError, match=sentence):
            engine.run(request)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"vae": "single"}, r"single: .*ink\.safetensors is a LoRA, not a VAE"),
        ({"loras": [{"id": "chalk"}]}, r"chalk: .*chalk\.safetensors is a Stable Diffusion 1 checkpoint, not a LoRA"),
    ],
)
def test_a_file_of_another_kind_is_refused_by_its_header(weights, ask, fields, sentence):
    write(weights.parent / "chalk.safetensors", checkpoint())
    with intarsia.Engine("null", weights=weights) as engine, pytest.raises(WeightsError, match=sentence):
        engine.run(ask(**fields))


def test_each_part_reaches_the_backend_and_the_result(weights, ask):
    def look(value: int, scale: float = 1.0) -> IpAdapter:
        return IpAdapter(id="look", scale=scale, image=np.full((9, 7, 3), value, np.uint8))

    variants = [
        {},
        {"vae": "soft"},
        {"loras": (Lora(id="ink"),)},
        {"loras": (Lora(id="ink", strength=0.5),)},
        {"loras": (Lora(id="ink"), Lora(id="chalk"))},
        {"ip_adapter": look(5)},
        {"ip_adapter": look(6)},
        {"ip_adapter": look(5, 0.5)},
    ]
    with intarsia.Engine("null", weights=weights) as engine:
        tickets = [engine.submit(ask(**fields)) for fields in variants]
        results = [ticket.result() for ticket in tickets]
        again = [engine.run(ask(**fields)) for fields in variants]
    colors = [np.asarray(result.images[0])[30, 30].tobytes() for result in results]
    assert len(set(colors)) == len(variants)
    assert colors == [np.asarray(result.images[0])[30, 30].tobytes() for result in again]
    assert results[1].meta["vae"].startswith("soft:")
    assert [lora["id"] for lora in results[4].meta["loras"]] == ["ink", "chalk"]
    assert (results[7].meta["ip_adapter"][:5], results[7].meta["ip_adapter_scale"]) == ("look:", 0.5)
    assert (results[0].meta["vae"], results[0].meta["loras"]) == ("model", [])


def test_what_is_hidden_in_the_shown_image_decides_nothing(weights, ask):
    shown = np.full((9, 7, 4), 255, np.uint8)
    shown[:, :, :3] = np.random.default_rng(0).integers(0, 256, (9, 7, 3))
    shown[2:5, 1:6, 3] = 0
    colors = set()
    with intarsia.Engine("null", weights=weights) as engine:
        for hidden in (0, 255):
            shown[2:5, 1:6, :3] = hidden
            result = engine.run(ask(ip_adapter=IpAdapter(id="look", image=shown)))
            colors.add(np.asarray(result.images[0])[30, 30].tobytes())
        other = np.ascontiguousarray(shown[::-1])
        colors.add(
            np.asarray(engine.run(ask(ip_adapter=IpAdapter(id="look", image=other))).images[0])[30, 30].tobytes()
        )
    assert len(colors) == 2


def test_levels_and_reuse_of_token_merging_come_from_the_models_entry(weights, ask):
    merging = 'path = "nothing"\ntoken_merging_levels = 2\ntoken_merging_reuse = 3'
    weights.write_text(REGISTRY.replace('path = "nothing"', merging))
    plan = intarsia.plan(ask(token_merging=0.5), weights)
    assert plan.token_merging == TokenMerging(ratio=0.5, levels=2, reuse=3)


def test_the_backend_gets_which_content_is_noise(weights, ask):
    contents = ("original", "fill", "noise", "blank")
    inputs = [resolve(ask(masked_content=content), Registry(weights)).inputs for content in contents]
    assert [each.noise_fill for each in inputs] == [False, False, True, False]


def test_models_and_their_combinations_are_closed_again(weights, ask, monkeypatch):
    from intarsia.backends.null import NullSession

    closed = []
    monkeypatch.setattr(NullSession, "close", lambda self: closed.append(self.files.loras))
    with intarsia.Engine("null", weights=weights) as engine:
        for strength in (0.1, 0.2, 0.3, 0.4):
            engine.run(ask(loras=(Lora(id="ink", strength=strength),)))
        assert [loras[0][1] for loras in closed] == [0.1, 0.2], "two stay open"
    assert len(closed) == 4
