"""``models add``, ``scan`` and ``remove``: entries of the user's weights.toml, and nobody else's files."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from intarsia.adding import add as adding
from intarsia.adding.add import add
from intarsia.adding.options import AddOptions
from intarsia.adding.own_copies import copy_in, own_folder, remove_own
from intarsia.adding.remove import remove
from intarsia.adding.scan import scan
from intarsia.adding.user_file import edited, user_file
from intarsia.errors import OutputError, WeightsError
from intarsia.registry.files import check, scheduler_config
from intarsia.registry.paths import id_of
from intarsia.registry.registry import Registry
from tests.tiny_files import SD1_LORA, SD1_UNET, SD2_TEXT, SD2_UNET, SDXL_LORA, VAE, checkpoint, write


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder, and a folder of downloads in it."""
    for name in ("CONFIG", "DATA", "CACHE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    monkeypatch.delenv("INTARSIA_WEIGHTS", raising=False)
    (tmp_path / "downloads").mkdir()
    return tmp_path


@pytest.fixture
def downloads(home: Path) -> Path:
    return home / "downloads"


def declared() -> dict[str, Any]:
    return tomllib.loads(user_file(None).read_text())


def test_a_checkpoint_becomes_an_entry_with_its_pin(downloads):
    path = write(downloads / "DreamShaper_8.safetensors", checkpoint())
    added = add(path)
    assert (added.entry.id, added.section, added.state) == ("dreamshaper-8", "models", "added")
    assert declared() == {
        "schema": 1,
        "models": {
            "dreamshaper-8": {
                "family": "sd15",
                "path": str(path),
                "files": {path.name: {
                    "bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                }},
            }
        },
    }  # fmt: skip

    entry = Registry().find("DreamShaper_8")
    assert (entry.format, entry.path) == ("single", path)
    assert check(entry) == path


@pytest.mark.parametrize(
    ("shapes", "families"),
    [
        ({"emb_params": (2, 768)}, ("sd15", "sd15-inpaint")),
        ({"<cat>": (1024,)}, ("sd21", "sd21-inpaint")),
        ({"clip_l": (2, 768), "clip_g": (2, 1280)}, ("sdxl", "sdxl-inpaint")),
    ],
)
def test_an_embedding_becomes_an_entry_whose_id_is_its_word(downloads, shapes, families):
    added = add(write(downloads / "Easy_Negative.safetensors", shapes))
    assert (added.entry.id, added.section, added.entry.families) == ("easy-negative", "embeddings", families)
    entry = Registry().part("embeddings", "easy_negative")
    assert check(entry) == entry.path
    assert remove("embeddings", "easy-negative", None)[0] == "easy-negative"


def test_each_kind_goes_into_its_section(downloads):
    write(downloads / "ink.safetensors", SD1_LORA)
    write(downloads / "sdxl_vae.safetensors", VAE)
    write(downloads / "m.safetensors", checkpoint())
    for name in ("ink", "sdxl_vae", "m"):
        add(downloads / f"{name}.safetensors")
    entries = declared()
    assert list(entries["loras"]) == ["ink"]
    assert entries["loras"]["ink"]["families"] == ["sd15", "sd15-inpaint"]
    assert entries["vaes"]["sdxl-vae"]["families"] == ["sdxl", "sdxl-inpaint"]
    assert list(entries["models"]) == ["m"]


def test_the_same_file_again_is_said_to_be_there(downloads):
    path = write(downloads / "ink.safetensors", SD1_LORA)
    first = add(path)
    before = user_file(None).read_bytes()
    (downloads / "link.safetensors").symlink_to(path)
    copy = downloads / "ink (1).safetensors"
    copy.write_bytes(path.read_bytes())

    for same in (path, downloads / "link.safetensors", copy):
        again = add(same)
        assert (again.state, again.entry.id) == ("there", first.entry.id)
    assert user_file(None).read_bytes() == before
    assert add(copy, AddOptions(id="twice")).state == "added"  # asked for by another id


def test_a_file_that_was_replaced_gets_new_pins(downloads):
    path = write(downloads / "ink.safetensors", SD1_LORA)
    add(path)
    write(path, SD1_LORA, fill=7)
    with pytest.raises(WeightsError, match="does not have the registry's sha256"):
        check(Registry().part("loras", "ink"))
    assert add(path).state == "updated"
    assert check(Registry().part("loras", "ink")) == path


@pytest.mark.parametrize(
    ("name", "identifier"),
    [
        ("DreamShaper_8_pruned.safetensors", "dreamshaper-8-pruned"),
        ("sd_xl_base_1.0.safetensors", "sd-xl-base-1.0"),
        ("My Model (final) [v2].safetensors", "my-model-final-v2"),
        ("a:b,c<d>.SAFETENSORS", "a-b-c-d"),
        ("水彩.safetensors", "水彩"),
        ("...safetensors", "model"),
    ],
)
def test_ids_come_from_names(name, identifier):
    assert id_of(Path("/x") / name) == identifier


def test_a_taken_id_gets_a_number_unless_it_was_asked_for(downloads):
    for number, folder in enumerate("ab"):
        (downloads / folder).mkdir()
        write(downloads / folder / "ink.safetensors", SD1_LORA, fill=number)
    assert add(downloads / "a" / "ink.safetensors").entry.id == "ink"
    with pytest.raises(WeightsError, match="--id: INK is taken"):
        add(downloads / "b" / "ink.safetensors", AddOptions(id="INK"))
    assert add(downloads / "b" / "ink.safetensors").entry.id == "ink-2"


@pytest.mark.parametrize("identifier", ["", " ", "a:b", "a/b", "a,b", "<a>", "a\nb"])
def test_ids_that_could_not_be_named_are_refused(downloads, identifier):
    write(downloads / "ink.safetensors", SD1_LORA)
    with pytest.raises(WeightsError, match="--id must be a name"):
        add(downloads / "ink.safetensors", AddOptions(id=identifier))
    assert not user_file(None).exists()


def test_comments_and_order_of_the_file_stay(downloads):
    path = user_file(None)
    path.parent.mkdir(parents=True)
    written = (
        "# mine\nschema = 1\n\n[models.old]  # the first\nfamily = 'sd15'\npath = \"/gone\"\n\n"
        '[loras.pen]\npath = "/pen.safetensors"   # a pen\n'
    )
    path.write_text(written)
    write(downloads / "m.safetensors", checkpoint())
    write(downloads / "ink.safetensors", SD1_LORA)
    add(downloads / "m.safetensors", AddOptions(default=True))
    add(downloads / "ink.safetensors")
    content = path.read_text()
    for line in filter(None, written.splitlines()):
        assert line in content.splitlines()
    assert Registry().default == "m"

    remove("loras", "ink")
    remove("models", "m")
    assert tomllib.loads(path.read_text()) == tomllib.loads(written)


def test_options_are_in_the_entry_and_have_their_effect(downloads):
    write(downloads / "base.safetensors", checkpoint(SD2_UNET, SD2_TEXT))
    add(downloads / "base.safetensors")
    assert scheduler_config(Registry().find("base"))["prediction_type"] == "v_prediction"
    remove("models", "base")
    add(downloads / "base.safetensors", AddOptions(prediction="epsilon"))
    entry = Registry().find("base")
    assert scheduler_config(entry)["prediction_type"] == "epsilon"
    assert entry.size == 512


WRONG: list[tuple[str, AddOptions, str]] = [
    ("novae", AddOptions(), "has no VAE: name one with --vae ID"),
    ("unet", AddOptions(vae="soft"), "has no text encoders: name a model that has them with --text ID"),
    ("unet", AddOptions(vae="soft", text="sd2"), "--text: sd2 is of another family than sd15"),
    ("whole", AddOptions(vae="nope"), "VAE not found: nope"),
    ("whole", AddOptions(families=("sdxl",)), "a Stable Diffusion 1 checkpoint, of the family sd15, not sdxl"),
    ("whole", AddOptions(families=("sd16",)), "--family must be of sd15, .*, not 'sd16'"),
    ("whole", AddOptions(families=("sd15", "sdxl")), "a model is of one family"),
    ("whole", AddOptions(prediction="flow"), "--prediction must be epsilon or v_prediction, not 'flow'"),
    ("ink", AddOptions(prediction="epsilon"), "is a LoRA; --prediction is for models"),
    ("ink", AddOptions(default=True), "is a LoRA; --default is for models"),
    ("flux", AddOptions(), "a model of the family Flux cannot be used"),
    ("page", AddOptions(), "a web page"),
]


@pytest.mark.parametrize(("name", "options", "sentence"), WRONG)
def test_what_cannot_be_added_is_refused_and_leaves_the_file_alone(downloads, name, options, sentence):
    write(downloads / "whole.safetensors", checkpoint())
    write(downloads / "novae.safetensors", checkpoint(vae={}))
    write(downloads / "unet.safetensors", SD1_UNET)
    write(downloads / "ink.safetensors", SD1_LORA)
    write(downloads / "soft.safetensors", VAE)
    write(downloads / "sd2.safetensors", checkpoint(SD2_UNET, SD2_TEXT))
    write(downloads / "flux.safetensors", {"double_blocks.0.img_attn.qkv.weight": (8, 8)})
    (downloads / "page.safetensors").write_text("<html>Log in</html>")
    add(downloads / "soft.safetensors")
    add(downloads / "sd2.safetensors")
    before = user_file(None).read_bytes()
    with pytest.raises(WeightsError, match=sentence):
        add(downloads / f"{name}.safetensors", options)
    assert user_file(None).read_bytes() == before


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("nothere.safetensors", "nothere.safetensors: no such file or folder"),
        ("OWNER/a-model", "OWNER/a-model: no such file or folder; of the Hugging Face hub it is hf:OWNER/a-model"),
        ("folder/x.safetensors", "folder/x.safetensors: no such file or folder"),
    ],
)
def test_what_is_not_there_may_be_meant_on_the_hub(home, path, sentence):
    with pytest.raises(WeightsError) as caught:
        add(Path(path))
    assert str(caught.value) == sentence


def test_a_copy_is_ours_and_goes_with_its_entry(downloads):
    path = write(downloads / "ink.safetensors", SD1_LORA)
    entry = add(path, AddOptions(copy=True)).entry
    assert entry.path.read_bytes() == path.read_bytes()
    assert own_folder() in entry.path.parents
    path.unlink()
    assert check(Registry().part("loras", "ink")) == entry.path

    assert remove("loras", "INK") == ("ink", entry.path)
    assert not entry.path.exists()


def test_no_copy_parts_a_lora_from_pefts_settings(downloads):
    layer = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k"
    path = write(
        downloads / "adapter_model.safetensors", {f"{layer}.lora_A.weight": (2, 8), f"{layer}.lora_B.weight": (8, 2)}
    )
    add(path, AddOptions(copy=True, id="alone"))
    (downloads / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 1}')
    with pytest.raises(WeightsError, match=r"part it from adapter_config\.json.*add it where it lies"):
        add(path, AddOptions(copy=True, id="beside"))
    assert add(path, AddOptions(id="beside")).entry.path == path


def test_only_our_own_copies_are_ever_removed(downloads):
    path = write(downloads / "ink.safetensors", SD1_LORA)
    add(path)
    assert remove("loras", "ink") == ("ink", None)
    assert path.exists()

    # what looks like one of ours but lies elsewhere
    own_folder().mkdir(parents=True)
    (own_folder() / "link.safetensors").symlink_to(path)
    outside = own_folder() / ".." / "ink.safetensors"
    for candidate in (path, own_folder() / "link.safetensors", outside, own_folder()):
        assert not remove_own(candidate)
    assert path.exists()
    assert own_folder().exists()


def test_a_failed_write_leaves_no_copy_behind(downloads, monkeypatch):
    path = write(downloads / "ink.safetensors", SD1_LORA)
    monkeypatch.setattr(adding, "write_entry", fail)
    with pytest.raises(OutputError, match="the disk is full"):
        add(path, AddOptions(copy=True))
    assert [place for place in own_folder().rglob("*") if place.is_file()] == []
    with pytest.raises(OutputError, match="cannot be written"):
        copy_in(downloads / "gone.safetensors", "loras", "gone")


def fail(*_: object) -> None:
    raise OutputError("the disk is full")


def test_remove_refuses_what_is_not_the_users_or_is_needed(downloads):
    write(downloads / "soft.safetensors", VAE)
    write(downloads / "m.safetensors", checkpoint(vae={}))
    add(downloads / "soft.safetensors")
    add(downloads / "m.safetensors", AddOptions(vae="soft"))
    with pytest.raises(WeightsError, match="soft: m needs it; nothing is removed"):
        remove("vaes", "soft")
    with pytest.raises(WeightsError, match=r"intarsia-tiny: is declared in .*nothing is removed"):
        remove("models", "intarsia-tiny")
    with pytest.raises(WeightsError, match="Model not found: nope"):
        remove("models", "nope")
    remove("models", "m")
    remove("vaes", "soft")
    assert declared() == {"schema": 1}


def test_a_file_that_is_named_is_made_and_no_other_is_touched(downloads, home):
    write(downloads / "ink.safetensors", SD1_LORA)
    add(downloads / "ink.safetensors", weights=home / "new" / "own.toml")
    (downloads / "other").mkdir()
    write(downloads / "other" / "ink.safetensors", SD1_LORA, fill=1)
    add(downloads / "other" / "ink.safetensors", weights=home / "new" / "own.toml")
    assert list(tomllib.loads((home / "new" / "own.toml").read_text())["loras"]) == ["ink", "ink-2"]
    assert not user_file(None).exists()


def test_nothing_is_written_under_the_former_name(downloads, home):
    write(downloads / "ink.safetensors", SD1_LORA)
    (home / "config" / "inlay").mkdir(parents=True)
    (home / "config" / "inlay" / "weights.toml").write_text("schema = 1\n")
    with pytest.raises(WeightsError, match="former name; move it to"):
        add(downloads / "ink.safetensors")


def test_a_link_to_the_file_stays_one(downloads, home):
    real = home / "dotfiles.toml"
    real.write_text("schema = 1\n")
    user_file(None).parent.mkdir(parents=True)
    user_file(None).symlink_to(real)
    write(downloads / "ink.safetensors", SD1_LORA)
    add(downloads / "ink.safetensors")
    assert user_file(None).is_symlink()
    assert "[loras.ink]" in real.read_text()


def spoil(document: dict[str, Any]) -> None:
    document["default"] = "x"
    raise ZeroDivisionError


def test_an_edit_that_fails_changes_nothing(home):
    with edited(user_file(None)):
        pass
    before = user_file(None).read_bytes()
    with pytest.raises(ZeroDivisionError), edited(user_file(None)) as document:
        spoil(document)
    assert user_file(None).read_bytes() == before
    user_file(None).write_text("= broken")
    with pytest.raises(WeightsError, match="cannot be read as TOML"), edited(user_file(None)):
        pass


@pytest.mark.skipif(os.name != "posix", reason="the file's folder is locked on POSIX systems alone")
def test_adds_at_the_same_time_lose_nothing(downloads):
    code = "import sys; from pathlib import Path; from intarsia.adding.add import add\nadd(Path(sys.argv[1]))"
    processes = []
    for number in range(4):
        (downloads / str(number)).mkdir()
        path = write(downloads / str(number) / "ink.safetensors", SD1_LORA, fill=number)
        processes.append(subprocess.Popen([sys.executable, "-c", code, str(path)]))
    assert [process.wait() for process in processes] == [0] * 4
    assert sorted(declared()["loras"]) == ["ink", "ink-2", "ink-3", "ink-4"]
    paths = {entry["path"] for entry in declared()["loras"].values()}
    assert len(paths) == 4


@pytest.fixture
def collection(downloads: Path) -> Path:
    """A folder as downloads make it."""
    (downloads / "loras").mkdir()
    (downloads / ".cache").mkdir()
    write(downloads / "m.safetensors", checkpoint())
    write(downloads / "loras" / "ink.safetensors", SD1_LORA)
    write(downloads / "loras" / "xl.safetensors", SDXL_LORA)
    write(downloads / "novae.safetensors", checkpoint(vae={}))
    write(downloads / ".cache" / "hidden.safetensors", SD1_LORA)
    (downloads / "old.ckpt").write_bytes(b"\x80\x02")
    (downloads / "notes.txt").write_text("hello")
    (downloads / "loop").symlink_to(downloads)

    folder = downloads / "pipeline"
    (folder / "unet").mkdir(parents=True)
    write(folder / "unet" / "diffusion_pytorch_model.safetensors", {"x": (4,)})
    (folder / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    return downloads


def test_scan_lists_what_is_there_and_changes_nothing(collection):
    add(collection / "loras" / "ink.safetensors")
    before = user_file(None).read_bytes()
    sights = list(scan(collection, Registry()))
    rows = {sight.path.relative_to(collection).as_posix(): sight for sight in sights}
    assert sorted(rows) == [
        "loras/ink.safetensors", "loras/xl.safetensors", "m.safetensors", "novae.safetensors", "old.ckpt", "pipeline",
    ]  # fmt: skip
    assert rows["loras/ink.safetensors"].id == "ink"
    assert rows["m.safetensors"].problem == ""
    assert rows["loras/xl.safetensors"].problem == ""
    assert "no VAE" in rows["novae.safetensors"].problem
    assert "can run code" in rows["old.ckpt"].problem
    assert "FluxPipeline" in rows["pipeline"].problem
    assert user_file(None).read_bytes() == before
    with pytest.raises(WeightsError, match="no such folder"):
        list(scan(collection / "gone", Registry()))


def test_scan_add_adds_all_that_can_be_used(collection):
    command = [sys.executable, "-m", "intarsia", "models", "scan", str(collection), "--add", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    states = {Path(row["path"]).name: row["state"] for row in json.loads(done.stdout)["files"]}
    assert states == {
        "m.safetensors": "added as m", "ink.safetensors": "added as ink", "xl.safetensors": "added as xl",
        "novae.safetensors": "unusable", "old.ckpt": "unusable", "pipeline": "unusable",
    }  # fmt: skip
    entries = declared()
    assert (list(entries["models"]), sorted(entries["loras"])) == (["m"], ["ink", "xl"])
