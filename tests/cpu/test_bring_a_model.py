"""From an empty home folder and a downloads folder to an image, by the commands that a person types."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")
from safetensors.torch import save_file

pytest.importorskip("diffusers", reason="its networks are what the checkpoint is made of")
from intarsia import Engine, InpaintRequest
from intarsia.registry.registry import Registry
from tests.original_layout import checkpoint, make_networks, save

Answer = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nothing but a folder of downloads, with a model and a LoRA that is made for it, and two images."""
    home = tmp_path_factory.mktemp("home")
    downloads = home / "Downloads"
    shutil.copytree(Registry().find("intarsia-tiny").path, downloads / "tiny")
    save(downloads / "dreamshaper_8.safetensors", checkpoint(make_networks("sd15-inpaint")))
    layer = "lora_unet_mid_block_attentions_0_proj_in"
    generator = torch.Generator().manual_seed(3)
    down, up = (torch.randn(shape, generator=generator) for shape in ((4, 64, 1, 1), (64, 4, 1, 1)))
    save_file({f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up}, downloads / "ink.safetensors")

    Image.new("RGB", (64, 64), (90, 120, 60)).save(home / "photo.png")
    mask = Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 48, 48))
    mask.save(home / "mask.png")
    return home


@pytest.fixture(scope="module")
def intarsia(home: Path) -> Callable[..., Answer]:
    dropped = ("INTARSIA_", "XDG_", "HF_HUB_OFFLINE")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    # no command may open a connection: every look-up of a name and every socket fails
    offline = home / "offline"
    offline.mkdir()
    (offline / "sitecustomize.py").write_text(
        "import socket\n\n\ndef refuse(*_, **__):\n    raise AssertionError('a connection was tried')\n\n\n"
        "socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse\n"
    )
    environment["OMP_NUM_THREADS"] = "1"  # as the tests' own engines have, for the same bits
    environment["PYTHONPATH"] = os.pathsep.join([str(offline), environment["PYTHONPATH"]])

    def run(*arguments: object) -> Answer:
        command = [sys.executable, "-m", "intarsia", *(str(argument).replace("~", str(home)) for argument in arguments)]
        done = subprocess.run(
            command, env=environment | {"HOME": str(home)}, cwd=home, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done

    return run


def test_two_commands_lead_from_a_downloads_folder_to_an_image(home, intarsia):
    added = intarsia("models", "add", "~/Downloads/dreamshaper_8.safetensors")
    assert added.stdout.split("\t")[:2] == ["added", "dreamshaper-8"]
    asked = ("-p", "a red circle", "--model", "dreamshaper-8", "--seed", 3, "--steps", 2, "--backend", "torch")
    size = ("--set", "width=64", "--set", "height=64")
    lora = ("--lora", "~/Downloads/ink.safetensors:0.8")
    intarsia("inpaint", "photo.png", "mask.png", *asked, *size, *lora, "-o", "ink.png")

    image, mask = (np.asarray(Image.open(home / f"{name}.png")) for name in ("photo", "mask"))
    loras: dict[str, list[str]] = {
        "plain": [],
        "path": [f"{home}/Downloads/ink.safetensors:0.8"],
        "zero": [f"{home}/Downloads/ink.safetensors:0"],
    }
    made = {"command": np.asarray(Image.open(home / "ink.png"))}
    request = {"init_image": image, "mask_image": mask, "prompt": "a red circle", "seed": 3, "steps": 2}
    with Engine("torch", weights=home / ".config" / "intarsia" / "weights.toml") as engine:
        for name, chosen in loras.items():
            result = engine.run(InpaintRequest(**request, width=64, height=64, model="dreamshaper-8", loras=chosen))
            made[name] = np.asarray(result.images[0])

    assert (made["command"] == made["path"]).all()
    assert (made["zero"] == made["plain"]).all()
    assert np.abs(made["path"].astype(int) - made["plain"]).mean() > 0.1
    changed = np.abs(made["plain"].astype(int) - image)
    assert changed[16:48, 16:48].mean() > 5
    assert not changed[:4].any()


def test_a_folder_of_diffusers_is_added_too(intarsia):
    """With an id, as the packaged model has the same content."""
    added = intarsia("models", "add", "~/Downloads/tiny", "--id", "tiny", "--family", "tiny-inpaint")
    assert added.stdout.startswith("added\ttiny\ta diffusers folder\ttiny-inpaint\t")
    assert "tiny" in intarsia("models", "list").stdout
