"""weights.toml, entries, and files compared with their pins."""

from __future__ import annotations

import hashlib

import pytest

from inlay import Registry, WeightsError
from inlay.engine.weights import check, entry_hash, locate, scheduler_config, verify

MERGING = 'schema = 1\n[models.a]\nfamily = "sd15"\npath = "x"\ntoken_merging{}'


@pytest.fixture(autouse=True)
def _no_user_files(monkeypatch, tmp_path):
    monkeypatch.delenv("INLAY_WEIGHTS", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def pinned(tmp_path, content=b"weights", name="unet/diffusion_pytorch_model.safetensors", **changes):
    folder = tmp_path / "model"
    (folder / "unet").mkdir(parents=True, exist_ok=True)
    (folder / "model_index.json").write_text("{}")
    (folder / name).write_bytes(content)
    pin = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)} | changes
    path = tmp_path / "weights.toml"
    path.write_text(
        f'schema = 1\ndefault = "m"\n[models.m]\nfamily = "sd15"\npath = "model"\n'
        f'[models.m.files."{name}"]\nsha256 = "{pin["sha256"]}"\nbytes = {pin["bytes"]}\n'
    )
    return path, folder / name


def test_the_packaged_registry_reads_and_its_default_exists():
    registry = Registry()
    assert registry.find(None).id == "inlay-tiny"
    assert registry.find("Inlay_Tiny").id == "inlay-tiny"


def test_how_a_model_merges_tokens_is_its_entrys(tmp_path):
    path = tmp_path / "weights.toml"
    path.write_text(MERGING.format(" = 0.4\ntoken_merging_levels = 2\ntoken_merging_reuse = 3"))
    entry = Registry(path).find("a")
    assert (entry.token_merging, entry.token_merging_levels, entry.token_merging_reuse) == (0.4, 2, 3)


def test_ids_and_aliases_are_loose_in_case_and_dashes(empty_registry):
    registry = Registry(empty_registry)
    for name in ("nothing", "NOTHING", "no-thing", "No_Thing", " nothing "):
        assert registry.find(name).id == "nothing"


def test_earlier_files_win(tmp_path, monkeypatch, empty_registry):
    second = tmp_path / "second.toml"
    second.write_text('schema = 1\ndefault = "other"\n[models.nothing]\nfamily = "sdxl"\npath = "x"\n')
    monkeypatch.setenv("INLAY_WEIGHTS", str(second))
    assert Registry(empty_registry).find("nothing").family == "sd15-inpaint"
    assert Registry(empty_registry).find(None).id == "nothing"
    assert Registry().find("nothing").family == "sdxl"
    assert Registry().find("inlay-tiny").id == "inlay-tiny", "the packaged file is still there"


def test_unknown_models_list_the_known_ones(empty_registry):
    with pytest.raises(WeightsError, match=r"Model not found: nope; the registry has: inlay-tiny, nothing"):
        Registry(empty_registry).find("nope")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("schema = 2", "schema must be 1, not 2"),
        ("not toml", "cannot be read as TOML"),
        ("schema = 1\nmodel = 3", "model is not known"),
        ('schema = 1\n[models.a]\npath = "x"', r"models\.a: family is missing"),
        ('schema = 1\n[models.a]\nfamily = "sd15"', r"models\.a: path is missing"),
        ('schema = 1\n[models.a]\nfamily = "sd9"\npath = "x"', "family must be one of sd15, .*not 'sd9'"),
        ('schema = 1\n[models.a]\nfamily = "sd15"\npath = "x"\ncolour = 1', "colour is not a key"),
        ('schema = 1\n[models.a]\nfamily = "sd15"\npath = "x"\nsize = "big"', "size must be a int, not 'big'"),
        (
            'schema = 1\n[models.a]\nfamily = "sd15"\npath = "x"\nfiles = {"../y" = {sha256="0", bytes=1}}',
            "stay inside",
        ),
        ('schema = 1\n[models.a]\nfamily = "sd15"\npath = "x"\nfiles = {"y" = {sha256="0"}}', "must have sha256"),
        ("schema = 1\n[models]\na = 3", "must be a table"),
        (MERGING.format("= 0.8"), r"token_merging must be between 0 and 0\.75, not 0\.8"),
        (MERGING.format("_levels = 0"), "token_merging_levels must be at least 1, not 0"),
        (MERGING.format("_reuse = 1.5"), "token_merging_reuse must be a int, not 1.5"),
    ],
)
def test_files_that_are_wrong_are_named(tmp_path, text, sentence):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(WeightsError, match=sentence) as caught:
        Registry(path)
    assert str(path) in str(caught.value)


def test_a_registry_that_is_not_there(tmp_path):
    with pytest.raises(WeightsError, match="no such file"):
        Registry(tmp_path / "none.toml")


def test_whole_files_pass(tmp_path):
    entry = Registry(pinned(tmp_path)[0]).find("m")
    assert [found.state for found in verify(entry)] == ["ok"]
    assert check(entry) == locate(entry)


@pytest.mark.parametrize(
    ("damage", "state", "sentence"),
    [
        (lambda file: file.unlink(), "missing", "unet/diffusion_pytorch_model.safetensors is missing"),
        (lambda file: file.write_bytes(b"weight"), "size", "has 6 bytes, not the 7"),
        (lambda file: file.write_bytes(b"wEights"), "hash", "does not have the registry's sha256"),
    ],
)
def test_damaged_files_are_named(tmp_path, damage, state, sentence):
    path, file = pinned(tmp_path)
    entry = Registry(path).find("m")
    check(entry)
    damage(file)
    assert [found.state for found in verify(entry)] == [state]
    with pytest.raises(WeightsError, match=sentence):
        check(entry)


def test_missing_folders_and_pickles(tmp_path):
    path = tmp_path / "weights.toml"
    path.write_text('schema = 1\n[models.a]\nfamily = "sd15"\npath = "model.ckpt"\n')
    with pytest.raises(WeightsError, match=r"model\.ckpt is a pickled checkpoint.*only safetensors"):
        locate(Registry(path).find("a"))
    path.write_text('schema = 1\n[models.a]\nfamily = "sd15"\npath = "gone"\n')
    with pytest.raises(WeightsError, match="does not exist"):
        locate(Registry(path).find("a"))
    (tmp_path / "gone").mkdir()
    with pytest.raises(WeightsError, match=r"has no model_index\.json"):
        locate(Registry(path).find("a"))


def test_the_hash_follows_the_content_with_and_without_pins(tmp_path):
    first = entry_hash(Registry(pinned(tmp_path)[0]).find("m"))
    assert first != entry_hash(Registry(pinned(tmp_path, b"others!")[0]).find("m"))
    path, file = pinned(tmp_path)
    path.write_text('schema = 1\n[models.m]\nfamily = "sd15"\npath = "model"\n')
    entry = Registry(path).find("m")
    unpinned = entry_hash(entry)
    file.write_bytes(b"others!!")
    assert entry_hash(entry) != unpinned


def test_scheduler_configuration_of_model_over_family(tmp_path):
    path, _ = pinned(tmp_path)
    path.write_text('schema = 1\n[models.m]\nfamily = "sdxl"\npath = "model"\n')
    entry = Registry(path).find("m")
    assert scheduler_config(entry) == {"timestep_spacing": "leading"}
    (tmp_path / "model" / "scheduler").mkdir()
    config = tmp_path / "model" / "scheduler" / "scheduler_config.json"
    config.write_text('{"timestep_spacing": "trailing", "beta_start": 0.1}')
    assert scheduler_config(entry) == {"timestep_spacing": "trailing", "beta_start": 0.1}
    config.write_text("[")
    with pytest.raises(WeightsError, match="not readable as JSON"):
        scheduler_config(entry)
