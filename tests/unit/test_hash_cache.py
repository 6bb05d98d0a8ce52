"""Hashes that are kept between processes: used while the file is the same, and never instead of looking for damage."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from intarsia import Registry
from intarsia.errors import WeightsError
from intarsia.registry import hash_cache, hashing
from intarsia.registry.files import check, entry_hash, verify
from intarsia.registry.hash_cache import LEAST_BYTES
from intarsia.registry.hashing import Hashes
from tests.tiny_files import write

LONG_AGO = 1_000_000_000


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hashing, "_known", {})
    return tmp_path / "cache" / "intarsia" / "sha256.jsonl"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every file that was read to be hashed."""
    paths: list[Path] = []
    original = hashing._read

    def wrapped(path: Path, stop: object) -> str:
        paths.append(path)
        return original(path, stop)  # type: ignore[arg-type]

    monkeypatch.setattr(hashing, "_read", wrapped)
    return paths


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = write(tmp_path / "large.safetensors", {"x": (LEAST_BYTES,)})
    settle(path)
    return path


def settle(path: Path, seconds: int = LONG_AGO) -> None:
    os.utime(path, (seconds, seconds))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this process knows is forgotten."""
    monkeypatch.setattr(hashing, "_known", {})


def test_a_hash_is_known_to_the_next_process(large, read, monkeypatch):
    assert Hashes([large]).of(large) == sha256(large)
    in_another_process(monkeypatch)
    assert Hashes([large]).of(large) == sha256(large)
    assert read == [large]


def test_a_link_has_the_hash_of_its_file(large, read, monkeypatch, tmp_path):
    Hashes([large]).of(large)
    in_another_process(monkeypatch)
    (tmp_path / "link.safetensors").symlink_to(large)
    assert Hashes([]).of(tmp_path / "link.safetensors") == sha256(large)
    assert read == [large]


@pytest.mark.parametrize("change", ["size", "time", "inode"])
def test_a_changed_file_is_read_again(large, read, monkeypatch, tmp_path, change):
    before = Hashes([large]).of(large)
    in_another_process(monkeypatch)
    content = bytearray(large.read_bytes())
    content[-1] ^= 1
    if change == "size":
        large.write_bytes(content + b"x")
        settle(large)
    elif change == "time":
        large.write_bytes(content)
        settle(large, LONG_AGO + 5)
    else:  # another file of the same size and time is put in its place
        (tmp_path / "other").write_bytes(content)
        settle(tmp_path / "other")
        os.replace(tmp_path / "other", large)
    assert Hashes([large]).of(large) == sha256(large) != before
    assert len(read) == 2


def test_a_file_that_was_just_written_is_not_kept(large, read, monkeypatch):
    os.utime(large)
    Hashes([large]).of(large)
    in_another_process(monkeypatch)
    Hashes([large]).of(large)
    assert len(read) == 2


def test_small_files_are_not_kept(tmp_path, cache):
    path = write(tmp_path / "small.safetensors", {"x": (4,)})
    settle(path)
    Hashes([path]).of(path)
    assert not cache.exists()


def test_a_file_that_changes_while_it_is_read_has_no_hash(large, monkeypatch):
    original = hashing._read

    def changed(path: Path, stop: object) -> str:
        digest = original(path, stop)  # type: ignore[arg-type]
        settle(path, LONG_AGO + 9)
        return digest

    monkeypatch.setattr(hashing, "_read", changed)
    with pytest.raises(WeightsError, match="changed while it was read"):
        Hashes([large]).of(large)


@pytest.mark.parametrize("damage", [b"{", b"\xff\n", b'{"path": 1}\n', b"[]\n"])
def test_a_damaged_line_is_passed_over(large, read, monkeypatch, cache, damage):
    Hashes([large]).of(large)
    kept = cache.read_bytes()
    cache.write_bytes(damage.rstrip(b"\n") + b"\n" + kept)
    in_another_process(monkeypatch)
    assert Hashes([large]).of(large) == sha256(large)
    assert len(read) == 1


def test_without_a_folder_to_write_everything_works(large, read, monkeypatch, cache):
    cache.parent.parent.mkdir(parents=True)
    cache.parent.write_text("a file in the folder's place")
    assert Hashes([large]).of(large) == sha256(large)
    in_another_process(monkeypatch)
    assert Hashes([large]).of(large) == sha256(large)
    assert len(read) == 2


def test_a_cache_that_grew_too_large_begins_anew(large, monkeypatch, cache):
    monkeypatch.setattr(hash_cache, "_MOST_BYTES", 10)
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"x" * 100)
    Hashes([large]).of(large)
    assert cache.read_bytes().count(b"\n") == 1
    assert cache.stat().st_mode & 0o077 == 0


def registry(tmp_path: Path, large: Path, pins: bool) -> Registry:
    pin = f'"{large.name}" = {{bytes = {large.stat().st_size}, sha256 = "{sha256(large)}"}}\n'
    text = f'schema = 1\n[loras.ink]\npath = "{large}"\n'
    (tmp_path / "weights.toml").write_text(text + (f"[loras.ink.files]\n{pin}" if pins else ""))
    return Registry(tmp_path / "weights.toml")


@pytest.mark.parametrize("pins", [True, False])
def test_no_start_hashes_what_an_earlier_one_has(tmp_path, large, read, monkeypatch, pins):
    entry = registry(tmp_path, large, pins).part("loras", "ink")
    for _ in range(2):
        in_another_process(monkeypatch)
        entry_hash(entry)
        check(entry)
    assert len(read) == 1


def test_verify_reads_the_file_whatever_is_kept(tmp_path, large, read):
    entry = registry(tmp_path, large, pins=True).part("loras", "ink")
    check(entry)
    content = bytearray(large.read_bytes())
    content[-1] ^= 1
    with large.open("r+b") as file:  # damage that neither size nor time shows
        file.write(content)
    settle(large)
    check(entry)
    assert [state.state for state in verify(entry)] == ["hash"]
    assert len(read) == 2
