"""What was written under the product's former name is read, and nothing is written under it."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

import intarsia
from intarsia import former_name
from intarsia.images.encode import encode
from intarsia.images.exif_texts import FileTexts, exif_of
from intarsia.images.metadata import read_metadata

ROOT = Path(__file__).resolve().parents[2]
# Where the former name may stand: what reads it, what tests that, and the history.
ALLOWED = {
    "tests/unit/test_adding.py",
    "CHANGELOG.md",
    "weights.toml",
    "intarsia/former_name.py",
    "intarsia/server/page/metadata.js",  # settings of files from before
    "tests/unit/test_former_name.py",
    "tests/batch/test_former_name.py",
}
SKIPPED = {".git", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", "__pycache__", "out"}
META = {"prompt": "a red circle", "seed": 5}


@pytest.fixture(autouse=True)
def _nothing_warned_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(former_name, "_warned", set())


def files() -> Iterator[Path]:
    """Every file of the repository."""
    for folder, names, found in os.walk(ROOT):
        names[:] = [name for name in names if name not in SKIPPED and not name.endswith(".egg-info")]
        yield from (Path(folder) / name for name in [*names, *found])


def test_the_former_name_stands_only_where_it_is_read():
    wrong = []
    for path in files():
        name = path.relative_to(ROOT).as_posix()
        in_name = former_name.FORMER in path.name.lower()
        if in_name or (path.is_file() and name not in ALLOWED and b"inlay" in path.read_bytes().lower()):
            wrong.append(name)
    assert wrong == []


def test_the_changelog_says_it_once():
    lines = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if "inlay" in line.lower()] == ["Until then the product was called `inlay`."]


@pytest.mark.parametrize("values", [{"INLAY_X": "old"}, {"INTARSIA_X": "new"}, {"INLAY_X": "old", "INTARSIA_X": "new"}])
def test_a_variable_of_the_former_name_works_and_is_warned_of_once(monkeypatch, caplog, values):
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with caplog.at_level(logging.WARNING, "intarsia"):
        assert {former_name.variable("X") for _ in range(3)} == {values.get("INTARSIA_X", "old")}
    warned = ["INLAY_X is the former name of INTARSIA_X: set INTARSIA_X instead"] if "INLAY_X" in values else []
    assert caplog.messages == warned


def test_an_empty_variable_is_not_set(monkeypatch, caplog):
    monkeypatch.setenv("INLAY_X", "")
    monkeypatch.setenv("INTARSIA_X", "")
    assert former_name.variable("X") is None
    assert caplog.messages == []


def test_the_command_line_reads_the_former_variable_and_says_so_on_one_line(tmp_path, empty_registry):
    environment = {name: value for name, value in os.environ.items() if name != "INTARSIA_WEIGHTS"}
    command = [sys.executable, "-c", "from intarsia.cli import main; main()", "models", "list", "--json"]
    environment |= {"INLAY_WEIGHTS": str(empty_registry), "XDG_CONFIG_HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "INLAY_WEIGHTS is the former name of INTARSIA_WEIGHTS: set INTARSIA_WEIGHTS instead\n"
    assert "nothing" in done.stdout
    json.loads(done.stdout)


def test_a_registry_in_the_former_configuration_folder_is_read(tmp_path, empty_registry, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("INTARSIA_WEIGHTS", raising=False)
    old, current = (tmp_path / "config" / name / "weights.toml" for name in ("inlay", "intarsia"))
    old.parent.mkdir(parents=True)
    old.write_text(empty_registry.read_text())
    (old.parent / "nothing").mkdir()
    assert intarsia.Registry().find("nothing").id == "nothing"
    [sentence] = caplog.messages
    assert str(old) in sentence
    assert str(current) in sentence

    current.parent.mkdir()
    current.write_text(old.read_text().replace("nothing", "other"))
    (current.parent / "other").mkdir()
    assert intarsia.Registry().find("other").id == "other"
    with pytest.raises(intarsia.WeightsError):
        intarsia.Registry().find("nothing")


def test_requests_for_the_packaged_model_by_its_former_name(monkeypatch, tmp_path):
    monkeypatch.delenv("INTARSIA_WEIGHTS", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert intarsia.Registry().find("inlay-tiny").id == "intarsia-tiny"


@pytest.mark.parametrize("name", ["intarsia", "inlay"])
def test_metadata_of_a_png_under_either_name(tmp_path, name):
    text = PngImagePlugin.PngInfo()
    text.add_text(name, json.dumps(META))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=text)
    with Image.open(tmp_path / "a.png") as image:
        assert read_metadata(image) == META


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_metadata_that_we_write_is_read_back(tmp_path, format):
    data, _ = encode(Image.new("RGB", (16, 16)), format, metadata=META, parameters="a red circle")
    path = tmp_path / "image"
    path.write_bytes(data)
    with Image.open(path) as image:
        assert read_metadata(image) == META
        assert former_name.FORMER.encode() not in data


@pytest.mark.parametrize("description", ["a photograph", "[1]", "{", "[" * 100_000])
def test_an_image_without_our_metadata(tmp_path, description):
    image = Image.new("RGB", (8, 8))
    assert read_metadata(image) is None
    block = Image.Exif()
    block[0x010E] = description
    image.save(tmp_path / "a.webp", exif=block.tobytes())
    with Image.open(tmp_path / "a.webp") as opened:
        assert read_metadata(opened) is None


def test_software_in_exif_is_the_current_name():
    block = Image.Exif()
    block.load(exif_of(FileTexts({}, None)))
    assert block[0x0131] == "intarsia"
