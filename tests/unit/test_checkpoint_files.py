"""Files of a model's folder: which are read and hashed, what links and special files become. Without torch."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import intarsia
from intarsia import Registry, WeightsError
from intarsia.checkpoints import files as module
from intarsia.checkpoints.files import read_bytes, read_json, regular
from intarsia.checkpoints.layout import files_read, find_weights
from intarsia.registry.entries import ModelEntry
from intarsia.registry.files import check, entry_hash, locate, scheduler_config, verify

TINY = Path(intarsia.__file__).parent / "assets" / "intarsia-tiny"
UNET = Path("unet", "diffusion_pytorch_model.safetensors")


@pytest.fixture(autouse=True)
def _no_user_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("INTARSIA_WEIGHTS", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def entry(tmp_path: Path) -> ModelEntry:
    """The packaged model as a folder of one's own, without pins."""
    shutil.copytree(TINY, tmp_path / "mine")
    return entry_of(tmp_path / "mine")


def entry_of(folder: Path, family: str = "tiny-inpaint") -> ModelEntry:
    path = folder.parent / "weights.toml"
    path.write_text(f'schema = 1\ndefault = "mine"\n[models.mine]\nfamily = "{family}"\npath = "{folder.name}"\n')
    return Registry(path).find("mine")


STRAYS = [
    "note.txt",
    "README.md",
    ".gitattributes",
    ".DS_Store",
    "unet/note.txt",
    "unet/._diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors.index.json",
    "unet/diffusion_pytorch_model.safetensors.index.fp16.json",
    "unet/model.onnx",
    "vae/config.json.bak",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/pytorch_model.bin",
    "tokenizer/chat_template.jinja",
    "tokenizer_2/vocab.json",
    "text_encoder_3/model.safetensors",
    "safety_checker/model.safetensors",
    "feature_extractor/preprocessor_config.json",
    "v1-5-pruned-emaonly.safetensors",
]


@pytest.mark.parametrize("name", STRAYS)
def test_what_lies_beside_the_weights_changes_nothing(entry, name):
    before = entry_hash(entry), find_weights(entry.path / "unet", "diffusion_pytorch_model")
    stray = entry.path / name
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"\0\5\x16\7 stray")
    assert before == (entry_hash(entry), find_weights(entry.path / "unet", "diffusion_pytorch_model"))


def test_every_file_that_is_read_is_in_the_hash(entry):
    read = files_read("models", entry.path)
    assert {path.relative_to(entry.path) for path in read} == {
        path.relative_to(TINY) for path in TINY.rglob("*") if path.is_file() and path.suffix != ".md"
    }
    found = {entry_hash(entry)}
    for path in read:
        if path.suffix != ".safetensors":
            path.write_bytes(path.read_bytes() + b" ")
            found.add(entry_hash(entry))
    assert len(found) == len([path for path in read if path.suffix != ".safetensors"]) + 1


def test_pins_of_the_packaged_model_hold():
    registry = Registry()
    assert {state.state for state in verify(registry.find("intarsia-tiny"))} == {"ok"}
    pinned = {file.path for file in registry.find("intarsia-tiny").files}
    assert pinned == {path.relative_to(TINY).as_posix() for path in files_read("models", TINY)}


def test_a_second_encoder_shards_and_their_index_are_in_the_hash(entry):
    unet = entry.path / "unet"
    (entry.path / UNET).rename(unet / "a.safetensors")
    (unet / "diffusion_pytorch_model.safetensors.index.json").write_text('{"weight_map": {"x": "a.safetensors"}}')
    names = [path.name for path in files_read("models", entry.path) if path.parent == unet]
    assert names == ["config.json", "diffusion_pytorch_model.safetensors.index.json", "a.safetensors"]
    shutil.copytree(entry.path / "text_encoder", entry.path / "text_encoder_2")
    shutil.copytree(entry.path / "tokenizer", entry.path / "tokenizer_2")
    both = {path.parent.name for path in files_read("models", entry.path)}
    assert both >= {"text_encoder_2", "tokenizer_2"}


def test_full_precision_goes_before_half(tmp_path):
    shards = json.dumps({"weight_map": {"x": "shard.safetensors"}})
    (tmp_path / "shard.safetensors").write_bytes(b"")
    order = [
        "model.safetensors.index.fp16.json",
        "model.fp16.safetensors",
        "model.safetensors.index.json",
        "model.safetensors",
    ]
    (tmp_path / "model.non_ema.safetensors.index.json").write_text(shards)
    with pytest.raises(WeightsError, match="no such file, nor"):
        find_weights(tmp_path, "model")
    for name in order:
        (tmp_path / name).write_text(shards)
        expected = "shard.safetensors" if name.endswith("json") else name
        assert find_weights(tmp_path, "model") == [tmp_path / expected]


@pytest.mark.parametrize("name", ["../x.safetensors", "/x.safetensors", "x.bin", "a\\b.safetensors", 5, "", None])
def test_an_index_names_safetensors_of_its_own_folder(tmp_path, name):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
    with pytest.raises(WeightsError, match=r"weight_map must give each tensor the name of a \.safetensors file"):
        find_weights(tmp_path, "model")


def linked(folder: Path, blobs: Path, how: str) -> None:
    """The files of a folder as links, in the ways that are about."""
    blobs.mkdir()
    every = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    if how == "folder":
        shutil.move(folder / "unet", blobs / "unet")
        (folder / "unet").symlink_to(blobs / "unet")
    elif how == "hard":
        for number, path in enumerate(every):
            os.link(path, blobs / str(number))
    else:
        for number, path in enumerate(every):
            blob = blobs / str(number)
            path.rename(blob)
            target = Path(os.path.relpath(blob, path.parent)) if how == "relative" else blob
            if how == "chain":
                (blobs / f"{number}-link").symlink_to(blob)
                target = blobs / f"{number}-link"
            path.symlink_to(target)


@pytest.mark.parametrize("how", ["absolute", "relative", "chain", "folder", "hard"])
def test_links_are_followed_and_hash_as_files_do(entry, tmp_path, how):
    before, configuration = entry_hash(entry), scheduler_config(entry)
    linked(entry.path, tmp_path / "blobs", how)
    assert (entry_hash(entry), scheduler_config(entry)) == (before, configuration)
    assert check(entry) == entry.path


def test_pins_are_compared_with_what_links_lead_to(entry, tmp_path):
    packaged = Registry().find("intarsia-tiny").files
    pins = "\n".join(f'"{pin.path}" = {{bytes = {pin.bytes}, sha256 = "{pin.sha256}"}}' for pin in packaged)
    path = tmp_path / "weights.toml"
    path.write_text(path.read_text() + f"[models.mine.files]\n{pins}\n")
    linked(entry.path, tmp_path / "blobs", "relative")
    mine = Registry(path).find("mine")
    assert check(mine) == mine.path
    assert entry_hash(mine) == entry_hash(Registry().find("intarsia-tiny"))
    (mine.path / UNET).unlink()
    (mine.path / UNET).symlink_to(mine.path / "model_index.json")
    with pytest.raises(WeightsError, match=r"diffusion_pytorch_model\.safetensors has \d+ bytes, not the"):
        check(mine)


def pipe(path: Path) -> None:
    os.mkfifo(path)


SPECIAL = {
    "a named pipe": (pipe, "must be a file, not a named pipe"),
    "a link to one": (
        lambda path: (os.mkfifo(f"{path}-pipe"), path.symlink_to(f"{path}-pipe")),
        "must be a file, not a named pipe",
    ),
    "/dev/zero": (lambda path: path.symlink_to("/dev/zero"), "must be a file, not a device"),
    "a folder": (lambda path: path.mkdir(), "must be a file, not a folder"),
    "a link to nothing": (lambda path: path.symlink_to("gone"), "a link to gone, which does not exist"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "cannot be read: "),
}
PLACES = ["model_index.json", "scheduler/scheduler_config.json", "unet/config.json", str(UNET), "tokenizer/vocab.json"]


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("place", PLACES)
def test_special_files_are_refused_before_they_are_opened(entry, kind, place):
    make, sentence = SPECIAL[kind]
    (entry.path / place).unlink()
    make(entry.path / place)
    with pytest.raises(WeightsError, match=sentence) as caught:
        entry_hash(entry)
    assert place in str(caught.value)
    assert "\n" not in str(caught.value)
    if place == "model_index.json":
        with pytest.raises(WeightsError, match=sentence):
            locate(entry)
    if place.startswith("scheduler"):
        with pytest.raises(WeightsError, match=sentence):
            scheduler_config(entry)


def test_a_pinned_special_file_is_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model_index.json").write_text("{}")
    os.mkfifo(tmp_path / "mine" / "x")
    path = tmp_path / "weights.toml"
    pin = f'"x" = {{bytes = 0, sha256 = "{"0" * 64}"}}'
    path.write_text(
        f'schema = 1\ndefault = "mine"\n[models.mine]\nfamily = "sd15"\npath = "mine"\n[models.mine.files]\n{pin}\n'
    )
    for ask in (check, verify):
        with pytest.raises(WeightsError, match="must be a file, not a named pipe"):
            ask(Registry(path).find("mine"))


def test_a_lora_may_be_a_link_and_must_be_a_file(tmp_path):
    path = tmp_path / "weights.toml"
    path.write_text('schema = 1\n[loras.ink]\npath = "ink.safetensors"\n')
    (tmp_path / "blob").write_bytes(b"x")
    (tmp_path / "ink.safetensors").symlink_to(tmp_path / "blob")
    entry = Registry(path).part("loras", "ink")
    first = entry_hash(entry)
    (tmp_path / "blob").write_bytes(b"yy")
    assert check(entry) == tmp_path / "ink.safetensors"
    assert entry_hash(entry) != first
    (tmp_path / "ink.safetensors").unlink()
    os.mkfifo(tmp_path / "ink.safetensors")
    with pytest.raises(WeightsError, match="must be a file, not a named pipe"):
        entry_hash(entry)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b"{", "not readable as JSON"),
        (b"\xff\xfe", "not readable as JSON"),
        (b"[]", "must hold a JSON object, not list"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not readable as JSON"),
    ],
    ids=range(6),
)
def test_broken_json_is_one_line(tmp_path, content, sentence):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(WeightsError, match=sentence) as caught:
        read_json(tmp_path / "config.json")
    assert str(caught.value).startswith(f"{tmp_path / 'config.json'}: ")
    assert "\n" not in str(caught.value)


def test_files_are_read_up_to_a_limit(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(b"12345")
    assert read_bytes(tmp_path / "x", 5) == b"12345"
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(WeightsError, match="has 5 bytes, and at most 4 are read"):
        read_bytes(tmp_path / "x", 4)
    assert module.MOST_JSON >= 2**24, "tokenizers are large"


def test_what_cannot_be_looked_at_is_named(tmp_path):
    for path in (tmp_path / "gone", tmp_path / ("x" * 300), tmp_path / "a\0b"):
        with pytest.raises(WeightsError, match=r"no such file|cannot be read"):
            regular(path)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ('{"a": {"b": 1}}', "'a' must be a text, a number or a list of them"),
        ('{"a": [[1]]}', "'a' must be a text, a number or a list of them"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' + "[" * 500 + "]" * 500 + "}", "'a' must be a text, a number or a list of them"),
    ],
    ids=range(4),
)
def test_a_schedulers_configuration_is_flat(entry, config, sentence):
    (entry.path / "scheduler" / "scheduler_config.json").write_text(config)
    with pytest.raises(WeightsError, match=sentence):
        scheduler_config(entry)


def test_keys_that_a_model_lacks_are_its_familys(entry):
    entry = entry_of(entry.path, "sdxl")
    path = entry.path / "scheduler" / "scheduler_config.json"
    for config, expected in (
        ({}, {"timestep_spacing": "leading"}),
        ({"beta_start": 0.1}, {"timestep_spacing": "leading", "beta_start": 0.1}),
        ({"timestep_spacing": None, "x": None}, {"timestep_spacing": "leading", "x": None}),
        ({"timestep_spacing": "trailing"}, {"timestep_spacing": "trailing"}),
    ):
        path.write_text(json.dumps(config))
        os.utime(path, ns=(0, len(path.read_bytes())))
        assert scheduler_config(entry) == expected
    image = np.zeros((64, 64, 3), np.uint8)
    mask = image[..., 0] + 255
    path.write_text("{}")
    request = intarsia.InpaintRequest(init_image=image, mask_image=mask, scheduler="EulerDiscreteScheduler", steps=4)
    config = dict(intarsia.plan(request, entry.declared_in).sampler.schedule)
    assert config == {"timestep_spacing": "leading"}
