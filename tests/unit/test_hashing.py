"""Weight files are hashed several at once, beside the imports of what opens them; errors keep their order."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import intarsia
from intarsia import Registry, WeightsError
from intarsia.backends.null import NullBackend
from intarsia.backends.protocol import ModelFiles
from intarsia.engine.noise import MAX_SEED
from intarsia.registry import hashing
from intarsia.registry.files import check, verify
from intarsia.registry.hashing import Hashes

SECONDS = 60
NAMES = ("a", "b", "c")


@pytest.fixture(autouse=True)
def _much_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file counts as large; a machine of four cores."""
    monkeypatch.setattr(hashing, "_LEAST_BYTES", 1)
    monkeypatch.setattr(hashing, "_cores", lambda: 4)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / name for name in NAMES]
    for place, path in enumerate(paths):
        path.write_bytes(path.name.encode() * (1000 + place))
    return paths


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def hashing_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "intarsia-hash"]


def reading(monkeypatch: pytest.MonkeyPatch, before: Callable[[Path, threading.Event], object]) -> None:
    """Call ``before(path, stop)`` as a file is about to be read."""
    read = hashing._read

    def wrapped(path: Path, stop: threading.Event) -> Any:
        before(path, stop)
        return read(path, stop)

    monkeypatch.setattr(hashing, "_read", wrapped)


def pinned(tmp_path: Path, digests: dict[str, str]) -> Path:
    """A model of files ``a``, ``b``, … with these pins."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model_index.json").write_text("{}")
    lines = ["schema = 1", 'default = "m"', "[models.m]", 'family = "sd15-inpaint"', 'path = "model"']
    for name, digest in digests.items():
        (folder / name).write_bytes(name.encode())
        lines += [f'[models.m.files."{name}"]', f'sha256 = "{digest}"', "bytes = 1"]
    (tmp_path / "weights.toml").write_text("\n".join(lines))
    return tmp_path / "weights.toml"


def right(*names: str) -> dict[str, str]:
    return {name: hashlib.sha256(name.encode()).hexdigest() for name in names}


def test_files_are_read_at_once_and_beside_what_is_done_meanwhile(files, monkeypatch):
    together = threading.Barrier(len(files) + 1, timeout=SECONDS)  # each waits for all others, so it breaks in turns
    reading(monkeypatch, lambda path, stop: together.wait())
    hashes = Hashes(files, together.wait)
    assert [hashes.of(path) for path in files] == [sha256(path) for path in files]
    assert not hashing_threads()


def test_the_largest_file_is_begun_first(files, monkeypatch):
    begun = []
    monkeypatch.setattr(hashing, "_cores", lambda: 1)
    reading(monkeypatch, lambda path, stop: begun.append(path.name))
    assert Hashes(files).of(files[0]) == sha256(files[0])
    assert begun == ["c", "b", "a"]


def test_what_is_known_is_not_read_again_and_nothing_is_done_meanwhile(files, monkeypatch):
    Hashes(files).of(files[0])
    monkeypatch.setattr(hashing, "_read", lambda path, stop: pytest.fail("it is read again"))
    hashes = Hashes(files, lambda: pytest.fail("there is nothing to wait for"))
    assert [hashes.of(path) for path in files] == [sha256(path) for path in files]


def test_a_file_that_changes_behind_its_thread_is_hashed_anew(files):
    hashes = Hashes(files)
    hashes.of(files[0])
    files[1].write_bytes(b"another")
    assert hashes.of(files[1]) == hashlib.sha256(b"another").hexdigest()


def test_little_to_read_starts_no_thread(files, monkeypatch):
    monkeypatch.setattr(hashing, "_LEAST_BYTES", 10_000)
    monkeypatch.setattr(threading.Thread, "start", lambda *_: pytest.fail("a thread for so little"))
    hashes = Hashes(files, lambda: pytest.fail("there is nothing to wait for"))
    assert [hashes.of(path) for path in files] == [sha256(path) for path in files]


def test_a_system_without_threads_hashes_all_the_same(files, monkeypatch):
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    hashes = Hashes(files)
    assert [hashes.of(path) for path in files] == [sha256(path) for path in files]


@pytest.mark.parametrize("last", NAMES)
def test_of_several_damaged_files_the_first_is_named_whichever_is_read_last(tmp_path, monkeypatch, last):
    others = threading.Semaphore(0)

    def finish_last(path: Path, stop: threading.Event) -> None:
        if path.name == last:
            assert all(others.acquire(timeout=SECONDS) for _ in range(2))
        else:
            others.release()

    reading(monkeypatch, finish_last)
    entry = Registry(pinned(tmp_path, right("a") | dict.fromkeys("bc", "0" * 64))).find("m")
    with pytest.raises(WeightsError, match=r"^m: b does not have the registry's sha256 000000000000…; the file is"):
        check(entry)
    assert [found.state for found in verify(entry)] == ["ok", "hash", "hash"]


def test_what_cannot_be_read_is_an_error_in_its_turn(tmp_path, monkeypatch):
    def break_off(path: Path, stop: threading.Event) -> None:
        if path.name == "b":
            raise PermissionError(f"no {path.name}")

    reading(monkeypatch, break_off)
    entry = Registry(pinned(tmp_path, {"a": "0" * 64} | right("b"))).find("m")
    with pytest.raises(WeightsError, match=r"^m: a does not have"):
        check(entry)
    with pytest.raises(PermissionError, match="no b"):
        Hashes([entry.path / "b"]).of(entry.path / "b")


def test_an_error_meanwhile_ends_the_threads(files, monkeypatch):
    def fail() -> None:
        raise RuntimeError("no device")

    reading(monkeypatch, lambda path, stop: stop.wait(SECONDS))
    with pytest.raises(RuntimeError, match="no device"):
        Hashes(files, fail).of(files[0])
    assert not hashing_threads()


def test_a_thread_ends_in_the_middle_of_a_file(files, monkeypatch):
    begun, chunks, stops = threading.Event(), [], []

    class Digest:
        def update(self, chunk: bytes) -> None:
            chunks.append(len(chunk))
            begun.set()
            stops[0].wait(SECONDS)

    def fail() -> None:
        assert begun.wait(SECONDS)
        raise RuntimeError("no device")

    monkeypatch.setattr(hashing, "_CHUNK", 100)
    monkeypatch.setattr(hashlib, "sha256", Digest)
    reading(monkeypatch, lambda path, stop: stops.append(stop))
    with pytest.raises(RuntimeError, match="no device"):
        Hashes(files[:1], fail).of(files[0])
    assert chunks == [100]


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
def test_an_interrupt_ends_the_threads_and_the_next_call_reads_anew(files, monkeypatch):
    begun = threading.Event()

    def wait_for_the_end(path: Path, stop: threading.Event) -> None:
        begun.set()
        assert stop.wait(SECONDS)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    sender = threading.Thread(target=lambda: begun.wait(SECONDS) and os.kill(os.getpid(), signal.SIGINT))
    with monkeypatch.context() as patch:
        reading(patch, wait_for_the_end)
        sender.start()
        try:
            with pytest.raises(KeyboardInterrupt):
                Hashes(files).of(files[0])
        finally:
            sender.join(SECONDS)
            signal.signal(signal.SIGINT, before)
        ends = time.monotonic() + SECONDS
        while hashing_threads() and time.monotonic() < ends:  # one that was just being started ends by itself
            time.sleep(0.001)
        assert not hashing_threads()
    assert Hashes(files).of(files[0]) == sha256(files[0])


def unpinned(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    for name in ("unet", "vae", "text_encoder"):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text("{}")
        stem = "model" if name == "text_encoder" else "diffusion_pytorch_model"
        (folder / name / f"{stem}.safetensors").write_bytes(name.encode())
    (folder / "model_index.json").write_text("{}")
    path = tmp_path / "weights.toml"
    path.write_text('schema = 1\ndefault = "m"\n[models.m]\nfamily = "sd15-inpaint"\npath = "model"\n')
    return path


def weights_of(tmp_path: Path, kind: str) -> Path:
    return unpinned(tmp_path) if kind == "unpinned" else pinned(tmp_path, right(*NAMES))


@pytest.mark.parametrize("kind", ["pinned", "unpinned"])
def test_the_backend_prepares_while_a_model_is_hashed_and_opens_it_afterwards(tmp_path, request_of, monkeypatch, kind):
    events, both = [], threading.Barrier(2, timeout=SECONDS)
    first, open_one = threading.Lock(), NullBackend.open

    def prepare(self: object) -> None:
        both.wait()
        events.append(("prepare", threading.current_thread().name))

    def begin(path: Path, stop: threading.Event) -> None:
        if first.acquire(blocking=False):
            both.wait()
        time.sleep(0.01)
        events.append(("hash", threading.current_thread().name))

    def opened(self: NullBackend, files: ModelFiles) -> Any:
        events.append(("open", threading.current_thread().name))
        return open_one(self, files)

    monkeypatch.setattr(NullBackend, "prepare", prepare, raising=False)
    monkeypatch.setattr(NullBackend, "open", opened)
    reading(monkeypatch, begin)
    with intarsia.Engine("null", weights=weights_of(tmp_path, kind)) as engine:
        engine.run(request_of())
    assert events[-1] == ("open", "intarsia-engine")
    assert ("prepare", "intarsia-engine") in events
    assert {thread for what, thread in events if what == "hash"} == {"intarsia-hash"}
    assert not hashing_threads()


@pytest.mark.parametrize("kind", ["pinned", "unpinned"])
def test_a_backend_that_cannot_prepare_is_left_to_its_opening(tmp_path, request_of, monkeypatch, kind):
    def fail(self: object) -> None:
        raise ImportError("no such package")

    monkeypatch.setattr(NullBackend, "prepare", fail, raising=False)
    with intarsia.Engine("null", weights=weights_of(tmp_path, kind)) as engine:
        assert engine.run(request_of()).images


def test_a_damaged_file_is_reported_and_not_opened(tmp_path, request_of, monkeypatch):
    monkeypatch.setattr(NullBackend, "open", lambda *_: pytest.fail("it is opened"))
    path = pinned(tmp_path, right("a", "c") | {"b": "0" * 64})
    with (
        intarsia.Engine("null", weights=path) as engine,
        pytest.raises(WeightsError, match=r"^m: b does not have the registry's sha256"),
    ):
        engine.run(request_of())


def test_an_engine_that_only_prepared_is_closed_and_takes_nothing_more(tmp_path, request_of):
    before = set(threading.enumerate())  # engines of other tests may be open
    engine = intarsia.Engine("null", weights=unpinned(tmp_path))
    with pytest.raises(intarsia.RequestError, match="seed"):  # found after the files were hashed
        engine.submit(request_of(seed=MAX_SEED, samples=2))
    own = [thread for thread in threading.enumerate() if thread.name == "intarsia-engine" and thread not in before]
    assert len(own) == 1
    engine.close()
    assert not own[0].is_alive()
    with pytest.raises(intarsia.BackendError, match="the engine is closed"):
        engine.submit(request_of())
