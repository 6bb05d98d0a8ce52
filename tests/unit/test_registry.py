"""weights.toml, entries, and files compared with their pins."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from intarsia import Registry, WeightsError
from intarsia.registry.files import check, entry_hash, locate, scheduler_config, verify
from intarsia.token_merging import TokenMerging

MERGING = 'schema = 1\n[models.a]\nfamily = "sd15"\npath = "x"\ntoken_merging{}'


@pytest.fixture(autouse=True)
def _no_user_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("INTARSIA_WEIGHTS", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def pinned(
    tmp_path: Path, content: bytes = b"weights", name: str = "unet/diffusion_pytorch_model.safetensors", **changes: Any
) -> tuple[Path, Path]:
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
    assert registry.find(None).id == "intarsia-tiny"
    assert registry.find("Intarsia_Tiny").id == "intarsia-tiny"


def test_how_a_model_merges_tokens_is_its_entrys(tmp_path):
    path = tmp_path / "weights.toml"
    path.write_text(MERGING.format(" = 0.4\ntoken_merging_levels = 2\ntoken_merging_reuse = 3"))
    entry = Registry(path).find("a")
    assert entry.token_merging == TokenMerging(ratio=0.4, levels=2, reuse=3)


def test_ids_and_aliases_are_loose_in_case_and_dashes(empty_registry):
    registry = Registry(empty_registry)
    for name in ("nothing", "NOTHING", "no-thing", "No_Thing", " nothing "):
        assert registry.find(name).id == "nothing"


def test_earlier_files_win(tmp_path, monkeypatch, empty_registry):
    second = tmp_path / "second.toml"
    second.write_text('schema = 1\ndefault = "other"\n[models.nothing]\nfamily = "sdxl"\npath = "x"\n')
    monkeypatch.setenv("INTARSIA_WEIGHTS", str(second))
    assert Registry(empty_registry).find("nothing").family == "sd15-inpaint"
    assert Registry(empty_registry).find(None).id == "nothing"
    assert Registry().find("nothing").family == "sdxl"
    assert Registry().find("intarsia-tiny").id == "intarsia-tiny", "the packaged file is still there"


def test_unknown_models_list_the_known_ones(empty_registry):
    known = "intarsia-tiny, intarsia-tiny-base, intarsia-tiny-lcm, nothing"
    with pytest.raises(WeightsError, match=f"Model not found: nope; the registry has: {known}"):
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
        ('schema = 1\n[models.a]\nfamily = "sd15"\npath = "x"\ncolor = 1', "color is not a key"),
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


def test_a_hash_in_capitals_is_the_same_hash(tmp_path):
    digest = hashlib.sha256(b"weights").hexdigest()
    entry = Registry(pinned(tmp_path, sha256=digest.upper())[0]).find("m")
    assert check(entry) == entry.path
    assert entry_hash(entry) == entry_hash(Registry(pinned(tmp_path)[0]).find("m"))


def test_the_hash_follows_the_names_of_files_too(tmp_path):
    hashes = set()
    for name in ("unet/diffusion_pytorch_model.safetensors", "unet/config.json"):
        hashes.add(entry_hash(Registry(pinned(tmp_path, name=name)[0]).find("m")))
    assert len(hashes) == 2


def test_an_alias_of_an_earlier_file_hides_a_later_files_entry(tmp_path, monkeypatch):
    first, second = tmp_path / "first.toml", tmp_path / "second.toml"
    first.write_text('schema = 1\ndefault = "a"\n[models.a]\nfamily = "sd15"\npath = "x"\naliases = ["B"]\n')
    second.write_text('schema = 1\n[models.b]\nfamily = "sdxl"\npath = "y"\naliases = ["a", "c"]\n')
    monkeypatch.setenv("INTARSIA_WEIGHTS", str(second))
    registry = Registry(first)
    assert [registry.find(name).id for name in ("a", "b", "c")] == ["a", "a", "b"]
    second.write_text('schema = 1\n[models.b]\nfamily = "sdxl"\npath = "y"\n')
    assert "b" not in Registry(first).models, "nothing is listed that no name finds"


WRONG_FIELDS = [
    ("size = true", "size must be a int, not True"),
    ("size = 0", "size must be between 8 and 8192, not 0"),
    ("size = -512", "size must be between 8 and 8192, not -512"),
    ("size = 100000000000000000000", "size must be between 8 and 8192"),
    ("token_merging = true", "token_merging must be a float, not True"),
    ("token_merging = nan", "token_merging must be between 0 and 0.75, not nan"),
    ("token_merging_levels = true", "token_merging_levels must be a int"),
    ('aliases = ["a", 1]', "aliases must be a list of texts"),
    ("stands_in_for = [[]]", "stands_in_for must be a list of texts"),
    ('path = "a\\u0000b"', "path must name a folder or a file"),
    ('path = ""', "path must name a folder or a file"),
    ('path = "~nobody-of-that-name/x"', "path '~nobody-of-that-name/x'"),
    ('files = {"x" = {sha256 = "12", bytes = 1}}', "sha256 of 64 hexadecimal digits"),
    ('files = {"x\\u0000" = {sha256 = "12", bytes = 1}}', "must stay inside"),
    ('files = {"x" = {sha256 = "12", bytes = true}}', "must have sha256"),
    ('files = {"/x" = {sha256 = "12", bytes = 1}}', "must stay inside"),
]


@pytest.mark.parametrize(("line", "sentence"), WRONG_FIELDS, ids=[line for line, _ in WRONG_FIELDS])
def test_fields_of_a_wrong_kind_are_named(tmp_path, line, sentence):
    fields = {"family": 'family = "sd15"', "path": 'path = "x"'}
    fields[line.split(" ")[0]] = line
    path = tmp_path / "w.toml"
    path.write_text("schema = 1\n[models.a]\n" + "\n".join(fields.values()) + "\n")
    with pytest.raises(WeightsError, match=sentence) as caught:
        Registry(path)
    assert str(caught.value).startswith(f"{path}: models.a")
    assert "\n" not in str(caught.value)


def test_a_whole_number_is_a_ratio_too(tmp_path):
    path = tmp_path / "w.toml"
    path.write_text(MERGING.format(" = 0"))
    assert Registry(path).find("a").token_merging.ratio == 0


@pytest.mark.parametrize("text", ["a = " + "[" * 20_000, "default = 5\nschema = 1", "schema = true"], ids=range(3))
def test_registries_of_a_wrong_form_are_one_line(tmp_path, text):
    path = tmp_path / "w.toml"
    path.write_text(text)
    with pytest.raises(WeightsError) as caught:
        Registry(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["x" * 300, "a/" * 3000])
def test_paths_that_no_file_system_takes_are_not_there(tmp_path, name):
    path = tmp_path / "w.toml"
    path.write_text(f'schema = 1\n[models.a]\nfamily = "sd15"\npath = "{name}"\n')
    with pytest.raises(WeightsError, match="does not exist"):
        locate(Registry(path).find("a"))


def test_the_familys_size_and_the_default_of_the_realtime_endpoint(tmp_path):
    path = tmp_path / "w.toml"
    path.write_text('schema = 1\ndefault = "a"\n[models.a]\nfamily = "sdxl"\npath = "x"\n')
    registry = Registry(path)
    assert (registry.find("a").size, registry.realtime) == (1024, "a")
    path.write_text(
        path.read_text().replace('path = "x"', 'path = "x"\nsize = 768').replace("[m", 'realtime = "b"\n[m')
    )
    assert (Registry(path).find("a").size, Registry(path).realtime) == (768, "b")


def test_an_entry_goes_before_what_stands_in_for_it(tmp_path):
    path = tmp_path / "w.toml"
    entry = '[models.{}]\nfamily = "sd15"\npath = "x"\n'
    path.write_text(
        'schema = 1\ndefault = "a"\n' + entry.format("a") + 'stands_in_for = ["b", "c"]\n' + entry.format("b")
    )
    registry = Registry(path)
    assert [registry.find(name).id for name in "abc"] == ["a", "b", "a"]
    assert [registry.is_stand_in(name) for name in "abc"] == [False, False, True]


def test_the_users_own_file_goes_before_the_packaged_one(tmp_path, monkeypatch):
    import platformdirs

    place = platformdirs.user_config_path("intarsia")
    place.mkdir(parents=True)
    (place / "weights.toml").write_text('schema = 1\ndefault = "own"\n[models.own]\nfamily = "sd15"\npath = "x"\n')
    assert Registry().find(None).id == "own"
    assert Registry().find("intarsia-tiny").path.is_dir()
    assert Registry().find("own").path == place / "x"
