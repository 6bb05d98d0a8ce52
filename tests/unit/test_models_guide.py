"""docs/models/README.md: every command of the guide, in its order, from an empty home folder."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.command_line import run_intarsia
from tests.tiny_files import SD1_LORA, VAE, checkpoint, write

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "models" / "README.md"
# What each command prints, at the beginning of one of its lines.
PRINTED = {
    "models add ~/Downloads/dreamshaper.safetensors": "added\tdreamshaper\ta Stable Diffusion 1 checkpoint\tsd15\t",
    "models add ~/Downloads/ink.safetensors": "added\tink\ta LoRA\tsd15, sd15-inpaint\t",
    "models scan ~/Downloads --add": "added as other\t",
    "models scan ~/Downloads": "new\ta LoRA\t",
    "models list --kind loras": "ink\tsd15, sd15-inpaint\tinstalled\t",
    "models list": "dreamshaper\tsd15\tinstalled\t",
    "models remove ink": "removed\tink",
    "inpaint": "photo-intarsia.png",
}


def commands() -> Iterator[str]:
    guide = GUIDE.read_text(encoding="utf-8").partition("## weights.toml")[0]
    for block in re.findall(r"```sh\n(.*?)```", guide, re.DOTALL):
        yield from block.splitlines()


def test_every_command_of_the_guide_runs(tmp_path):
    downloads = tmp_path / "Downloads"
    downloads.mkdir()
    write(downloads / "dreamshaper.safetensors", checkpoint())
    write(downloads / "ink.safetensors", SD1_LORA)
    write(downloads / "other.safetensors", SD1_LORA, fill=1)
    write(downloads / "vae-ft-mse-840000-ema-pruned.safetensors", VAE)
    for name in ("photo", "mask"):
        Image.new("L", (64, 64), 255).save(tmp_path / f"{name}.png")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("INTARSIA_", "XDG_"))}

    lines = list(commands())
    assert len(lines) >= 9
    for line in lines:
        program, *arguments = [word.replace("~", str(tmp_path)) for word in shlex.split(line)]
        assert program == "intarsia"
        if arguments[0] == "inpaint":  # what is drawn is another test's
            arguments += ["--backend", "null", "--overwrite"]
        done = run_intarsia(arguments, cwd=tmp_path, environment=kept | {"HOME": str(tmp_path)})
        assert done.returncode == 0, f"{line}: {done.stderr}"
        expected = next(text for start, text in PRINTED.items() if line.removeprefix("intarsia ").startswith(start))
        assert any(printed.startswith(expected) for printed in done.stdout.splitlines()), (line, done.stdout)


@pytest.mark.parametrize(
    "message", ["did you mean", "give it as --lora", "has no VAE", "registry's sha256", "fits the fam"]
)
def test_messages_that_the_guide_explains_are_messages(message):
    package = GUIDE.parents[2] / "intarsia"
    assert message in GUIDE.read_text(encoding="utf-8")
    stem = message.removesuffix("--lora")
    assert any(stem in path.read_text(encoding="utf-8") for path in package.rglob("*.py"))
